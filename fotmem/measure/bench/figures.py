"""The figures that compare a store's answers with the exact ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.attention import PartialAttention, dense_attention, merge, topk_attention
from fotmem.errors import InputError, require_packages
from fotmem.stores.brute_force import exact_search
from fotmem.stores.hits import Bias

if TYPE_CHECKING:
    from fotmem.measure.capture import Capture, KeyValues

STEP = 2**14
"""Keys of one step of exact search."""
RESAMPLED = 1000
"""Bootstrap samples of an interval."""
Array = NDArray[np.float64]


class Figure(NamedTuple):
    """A figure with its 95% confidence interval (bootstrap over queries or rounds, percentiles)."""

    value: float
    low: float
    high: float


class Truth(NamedTuple):
    """The answers of exact search and dense attention to some queries."""

    queries: Tensor
    """Shape ``[H, Q, D]``."""
    scores: Tensor
    """Shape ``[H, Q, K]``: the largest inner products, best first."""
    values: Tensor
    """Shape ``[H, Q, K, D]``: the values of the same keys."""
    out: Tensor
    """Shape ``[H, Q, D]``: attention to all keys."""
    lse: Tensor
    """Shape ``[H, Q]``: log-sum-exp of all scaled inner products."""
    scale: float


class QueryFigures(NamedTuple):
    """A store's answers against the exact ones, per head and query: ``[H, Q]``."""

    recall: Tensor
    """Share of the k best keys that are among the k keys found; equal scores count as equal."""
    found: Tensor
    """Softmax mass of the keys found, among all keys."""
    most: Tensor
    """Softmax mass of the k best keys."""
    error: Tensor
    """Relative error of the attention output, ``|out - dense| / |dense|``."""
    excess_error: Tensor
    """Relative error against attention to the k best keys: the part that the store causes."""


class SearchFigures(NamedTuple):
    """The figures of a store over heads and queries."""

    recall: Figure
    """Share of the k best keys that are among the k keys found; equal scores count as equal."""
    attention_mass_recall: Figure
    """Softmax mass of the keys found, as a share of the softmax mass of the k best keys."""
    error: Figure
    """Relative error of the attention output, ``|out - dense| / |dense|``: mean."""
    error_p95: Figure
    """Relative error that 95 of 100 queries do not exceed."""
    excess_error: Figure
    """Relative error against attention to the k best keys, which the store causes: mean."""


def truth(
    queries: Tensor,
    blocks: Iterable[KeyValues],
    *,
    scale: float,
    top_k: int,
    first_id: int = 0,
    bias: Bias | None = None,
) -> Truth:
    """Answer queries ``[H, Q, D]`` with all keys, block by block.

    `bias` is as for `MemoryStore.attend`; the ids of the keys begin with `first_id`.

    Raises
    ------
    InputError
        There are no keys.
    """
    queries = queries.contiguous()
    best = _Best(queries, top_k)
    parts: list[PartialAttention] = []
    for keys, values in blocks:
        best.look_at(keys, values, first_id, bias)
        ids = torch.arange(first_id, first_id + keys.shape[1], device=keys.device)
        mask = None if bias is None else bias(ids) * scale
        part = dense_attention(queries[None], keys[None], values[None], scale=scale, mask=mask)
        parts = [merge([*parts, PartialAttention(part.out[0], part.lse[0])])]
        first_id += keys.shape[1]
    if not parts:
        raise InputError(
            "there are no keys to search, and so no figures of a store: read more text"
        )
    return Truth(queries, best.scores, best.values, parts[0].out, parts[0].lse, scale)


def captured_truth(
    capture: Capture, layer: int, size: int, queries: Tensor, *, top_k: int
) -> Truth:
    """Answer queries ``[H, Q, D]`` with the first `size` tokens of a capture."""
    blocks = capture.blocks(layer, STEP, size)
    return truth(queries, blocks, scale=capture.info.scale, top_k=top_k)


class _Best:
    """The best keys so far, and their values."""

    def __init__(self, queries: Tensor, top_k: int) -> None:
        self.queries, self.top_k = queries, top_k
        self.scores = queries.new_empty(*queries.shape[:2], 0)
        self.values = queries.new_empty(*queries.shape[:2], 0, queries.shape[2])

    def look_at(self, keys: Tensor, values: Tensor, first_id: int, bias: Bias | None) -> None:
        """Include more keys and their values ``[H, n, D]``."""
        found = exact_search(self.queries, keys, self.top_k, first_id=first_id, bias=bias)
        heads = torch.arange(len(keys), device=keys.device)[:, None, None]
        scores = torch.cat([self.scores, found.scores], 2)
        every = torch.cat([self.values, values[heads, found.ids - first_id]], 2)
        self.scores, order = scores.topk(min(self.top_k, scores.shape[2]), dim=2)
        self.values = every.take_along_dim(order[..., None], 2)


def query_figures(scores: Tensor, out: Tensor, exact: Truth) -> QueryFigures:
    """Compare a store's answers: scores ``[H, Q, K]`` and attention output ``[H, Q, D]``."""
    best = exact.scores[..., : scores.shape[2]].double()
    bar = best[..., -1:] - 1e-5 * best.abs().amax(-1, keepdim=True)  # as far as float32 rounds
    values = exact.values[:, :, : best.shape[2]]
    topk_out = topk_attention(best.float(), values, scale=exact.scale, dtype=torch.float32).out
    return QueryFigures(
        (scores.double()[..., : best.shape[2]] >= bar).double().mean(-1),
        *_weights(scores, exact),
        relative_errors(out, exact.out),
        relative_errors(out, topk_out),
    )


def search_figures(scores: Tensor, out: Tensor, exact: Truth) -> SearchFigures:
    """Summarise `query_figures` over heads and queries."""
    recall, found, most, error, excess_error = query_figures(scores, out, exact)
    return SearchFigures(
        recall=interval(np.mean, recall.mean(0)),
        attention_mass_recall=interval(ratio, found.mean(0), most.mean(0)),
        error=interval(np.mean, error.mean(0)),
        error_p95=interval(p95, error.T),
        excess_error=interval(np.mean, excess_error.mean(0)),
    )


def attention_mass_recall(scores: Tensor, exact: Truth) -> float:
    """Return the attention-mass recall of scores ``[H, Q, K]``, without an interval."""
    found, most = _weights(scores, exact)
    return float(found.sum() / most.sum())


def _weights(scores: Tensor, exact: Truth) -> tuple[Tensor, Tensor]:
    """Return the softmax mass of the keys found, and of as many best keys: ``[H, Q]``."""
    best = exact.scores[..., : scores.shape[2]]
    found, most = (
        (each.double() * exact.scale - exact.lse.double()[..., None]).exp().sum(-1)
        for each in (scores, best)
    )
    return found, most


def relative_errors(out: Tensor, right: Tensor) -> Tensor:
    """Return the relative error of ``[H, Q, D]`` against `right`: ``[H, Q]``."""
    off = (out.double() - right.double()).norm(dim=-1)
    relative: Tensor = off / right.double().norm(dim=-1).clamp(min=1e-30)
    return relative


def interval(statistic: Callable[..., Any], *samples: Tensor) -> Figure:
    """Compute a statistic of samples with its interval; their first axis is that of the queries.

    The statistic takes arrays, and the `axis` that it reduces.
    """
    require_packages("confidence intervals", "scipy")
    from scipy.stats import bootstrap  # an extra; reading reports needs no scipy

    arrays = [sample.double().cpu().numpy() for sample in samples]
    rows = np.arange(len(arrays[0]))

    def resampled(chosen: NDArray[np.int64], axis: int = -1) -> Any:
        flat = (array[chosen].reshape(*chosen.shape[:-1], -1) for array in arrays)
        return statistic(*flat, axis=axis)

    value = float(resampled(rows))
    if len(rows) < 2:
        return Figure(value, value, value)
    found = bootstrap((rows,), resampled, n_resamples=RESAMPLED, method="percentile", rng=0)
    return Figure(value, *map(float, found.confidence_interval))


def ratio(found: Array, most: Array, axis: int) -> Any:
    """Return the sum of `found` as a share of the sum of `most`."""
    return found.sum(axis) / most.sum(axis)


def p95(errors: Array, axis: int) -> Any:
    """Return what 95 of 100 errors do not exceed."""
    return np.quantile(errors, 0.95, axis=axis)
