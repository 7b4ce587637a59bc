"""Dense attention and attention to the best keys, by their definition."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.measure.capture import KeyValues

AT_ONCE = 32
"""Queries of a head whose scores are in RAM at a time."""
PEAK = 32
"""Keys whose weight tells whether a query looks at few keys or at many."""


class Oracle(NamedTuple):
    """The exact answers to queries ``[H, Q, D]``."""

    dense: Tensor
    """Shape ``[H, Q, D]``: attention to all keys."""
    best: dict[int, Tensor]
    """The same by ``k``: attention to the k keys with the largest scores."""
    peak: Tensor
    """Shape ``[H, Q]``: the weight of the `PEAK` best keys."""


def oracle(queries: Tensor, rows: KeyValues, scale: float, counts: Iterable[int]) -> Oracle:
    """Answer queries in float32 from keys and values as they are stored."""
    keys, values = (each.float() for each in rows)
    wanted = sorted({min(count, keys.shape[1]) for count in counts})
    parts = [_answers(some, keys, values, scale, wanted) for some in queries.split(AT_ONCE, 1)]
    joined = {k: torch.cat([part.best[k] for part in parts], 1) for k in wanted}
    dense, peak = (torch.cat([part[place] for part in parts], 1) for place in (0, 2))
    return Oracle(dense, joined, peak)


def _answers(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, counts: list[int]
) -> Oracle:
    weights = (queries @ keys.mT).mul_(scale).softmax(-1)
    most = min(max(PEAK, *counts), weights.shape[2])
    heaviest, places = weights.topk(most, -1)
    heads = torch.arange(len(keys))[:, None, None]
    parts = heaviest[..., None] * values[heads, places]  # [H, Q, most, D]
    best = {k: parts[:, :, :k].sum(2) / heaviest[..., :k].sum(-1, keepdim=True) for k in counts}
    return Oracle(weights @ values, best, heaviest[..., :PEAK].sum(-1))


def relative(out: Tensor, exact: Tensor) -> Tensor:
    """Return ``|out - exact| / |exact|`` of each query, shape ``[H, Q]``."""
    off = (out.double() - exact.double()).norm(dim=-1)
    found: Tensor = off / exact.double().norm(dim=-1)
    return found
