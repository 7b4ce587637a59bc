"""The figures by which a store's answers are judged, against the exact ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor

from fotmem.attention import PartialAttention, dense_attention, merge, topk_attention
from fotmem.capture import Rows
from fotmem.search import exact_search

RESAMPLED = 1000
"""Bootstrap samples of which an interval is made."""
Array = NDArray[np.float64]


class Figure(NamedTuple):
    """A figure with its 95% confidence interval (bootstrap over queries or rounds, percentiles)."""

    value: float
    low: float
    high: float


class Truth(NamedTuple):
    """What exact search and dense attention answer to some queries."""

    queries: Tensor
    """Shape ``[H, M, D]``."""
    scores: Tensor
    """Shape ``[H, M, K]``: the largest inner products, best first."""
    values: Tensor
    """Shape ``[H, M, K, D]``: those of the same keys."""
    out: Tensor
    """Shape ``[H, M, D]``: attention to all keys."""
    lse: Tensor
    """Shape ``[H, M]``: log-sum-exp of all scaled inner products."""
    scale: float


class Judged(NamedTuple):
    """How good the top k of a store are."""

    recall: Figure
    """Share of the k best keys that are among the k found; equal scores count as equal."""
    mass: Figure
    """Softmax weight of the keys found, as a share of that of the k best."""
    error: Figure
    """Relative error of the attention output, ``|out - dense| / |dense|``: mean."""
    error_p95: Figure
    """The same, which 95 of 100 queries do not exceed."""
    topk_error: Figure
    """Relative to attention to the k best keys instead: what the store adds. Mean."""


def truth(queries: Tensor, blocks: Iterable[Rows], *, scale: float, top_k: int) -> Truth:
    """Answer queries ``[H, M, D]`` by looking at all keys, block by block."""
    queries = queries.contiguous()
    best = _Best(queries, top_k)
    parts: list[PartialAttention] = []
    for keys, values in blocks:
        best.look_at(keys, values)
        part = dense_attention(queries[None], keys[None], values[None], scale=scale)
        parts = [merge([*parts, PartialAttention(part.out[0], part.lse[0])])]
    return Truth(queries, best.scores, best.values, parts[0].out, parts[0].lse, scale)


class _Best:
    """The best keys so far, with their values."""

    def __init__(self, queries: Tensor, top_k: int) -> None:
        self.queries, self.top_k = queries, top_k
        self.scores = queries.new_empty(*queries.shape[:2], 0)
        self.values = queries.new_empty(*queries.shape[:2], 0, queries.shape[2])

    def look_at(self, keys: Tensor, values: Tensor) -> None:
        """Take up the best of more keys and their values ``[H, n, D]``."""
        found = exact_search(self.queries, keys, self.top_k)
        heads = torch.arange(len(keys), device=keys.device)[:, None, None]
        scores = torch.cat([self.scores, found.scores], 2)
        every = torch.cat([self.values, values[heads, found.ids]], 2)
        self.scores, order = scores.topk(min(self.top_k, scores.shape[2]), dim=2)
        self.values = every.take_along_dim(order[..., None], 2)


def judge(scores: Tensor, out: Tensor, exact: Truth) -> Judged:
    """Compare what a store answers, scores ``[H, M, K]`` and attention output ``[H, M, D]``."""
    best = exact.scores[..., : scores.shape[2]].double()
    bar = best[..., -1:] - 1e-5 * best.abs().amax(-1, keepdim=True)  # as far as float32 rounds
    recall = (scores.double()[..., : best.shape[2]] >= bar).double().mean(-1).mean(0)
    values = exact.values[:, :, : best.shape[2]]
    topk_out = topk_attention(best.float(), values, scale=exact.scale, dtype=torch.float32).out
    errors = _relative(out, exact.out)
    return Judged(
        recall=interval(np.mean, recall),
        mass=interval(_ratio, *_weights(scores, exact)),
        error=interval(np.mean, errors.mean(0)),
        error_p95=interval(_p95, errors.T),
        topk_error=interval(np.mean, _relative(out, topk_out).mean(0)),
    )


def mass(scores: Tensor, exact: Truth) -> float:
    """Return the mass alone of scores ``[H, M, K]``, without its interval, which takes longer."""
    found, most = _weights(scores, exact)
    return float(found.sum() / most.sum())


def _weights(scores: Tensor, exact: Truth) -> tuple[Tensor, Tensor]:
    """Return the softmax weight of the keys found, and of as many best ones, by query ``[M]``."""
    best = exact.scores[..., : scores.shape[2]]
    found, most = (
        (each.double() * exact.scale - exact.lse.double()[..., None]).exp().sum(-1).mean(0)
        for each in (scores, best)
    )
    return found, most


def _relative(out: Tensor, right: Tensor) -> Tensor:
    """Return how far ``[H, M, D]`` is from what is right, in units of that: ``[H, M]``."""
    off = (out.double() - right.double()).norm(dim=-1)
    relative: Tensor = off / right.double().norm(dim=-1).clamp(min=1e-30)
    return relative


def interval(statistic: Callable[..., Any], *samples: Tensor) -> Figure:
    """Compute a statistic of samples (of the same queries, first axis) with its interval.

    The statistic takes arrays, and `axis`, of which it makes one number.
    """
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


def _ratio(weights: Array, most: Array, axis: int) -> Any:
    return weights.sum(axis) / most.sum(axis)


def _p95(errors: Array, axis: int) -> Any:
    return np.quantile(errors, 0.95, axis=axis)
