"""The error of `clusters` in one layer, against dense attention and against the best keys."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fotmem
from benchmarks.clusters.captures import DTYPE, Layer, blocks
from benchmarks.clusters.keys_read import keys_read, tune_to_share
from benchmarks.clusters.oracle import Oracle, oracle, relative
from fotmem.measure.capture import KeyValues
from fotmem.stores import MemoryStore

BUDGETS = (160, 320, 1280)
"""Beside that of the default."""
COUNTED = 32
"""Queries of a head whose keys are counted."""
PEAKED = 0.9
"""A query is peaked if the best keys have so much of its weight; others are diffuse."""
BINS = 8
"""Bins of queries by estimated error."""
Row = dict[str, Any]


def filled(rows: KeyValues, **options: Any) -> MemoryStore:
    """Return a store `clusters` of these rows."""
    heads, _, dim = rows.keys.shape
    store = fotmem.create_store("clusters", num_heads=heads, head_dim=dim, dtype=DTYPE, **options)
    for block in blocks(rows):
        store.add(*block)
    return store


def layer_errors(store: MemoryStore, layer: Layer, share: float) -> Row:
    """Measure the errors of all settings of a store of a layer, of its default options at first."""
    queries, scale = layer.queries, layer.scale
    answers = {"default": _asked(store, queries, scale)}
    tune_to_share(store, queries[:, :COUNTED], share)
    answers["share"] = _asked(store, queries, scale)
    for budget in BUDGETS:
        store.tune(budget=budget)
        answers[f"budget={budget}"] = _asked(store, queries, scale)
    exact = oracle(queries, layer.rows, scale, [round(each["read"]) for each in answers.values()])
    return {name: _figures(each, exact) for name, each in answers.items()}


def _asked(store: MemoryStore, queries: Tensor, scale: float) -> Row:
    return {
        "budget": store.options.budget,  # type: ignore[attr-defined]
        "read": keys_read(store, queries[:, :COUNTED]),
        "out": store.attend(queries, top_k=None, scale=scale).out,
        "estimated": estimated_errors(store, queries, scale),
    }


def estimated_errors(store: MemoryStore, queries: Tensor, scale: float) -> Tensor | None:
    """Return the errors ``[H, Q]`` that a store expects of its answers; None if it has none."""
    estimate: Callable[..., Tensor] | None = getattr(store, "estimated_errors", None)
    return None if estimate is None else estimate(queries, scale=scale)


def _figures(answer: Row, exact: Oracle) -> Row:
    """Compare an answer with the exact ones."""
    errors = relative(answer["out"], exact.dense)
    best = relative(exact.best[round(answer["read"])], exact.dense)
    peaked = exact.peak > PEAKED
    row = {
        "budget": answer["budget"],
        "read": answer["read"],
        "error": float(errors.mean()),
        "error_p95": float(errors.quantile(0.95)),
        "error_by_head": errors.mean(1).tolist(),
        "error_peaked": _mean(errors[peaked]),
        "error_diffuse": _mean(errors[~peaked]),
        "peaked": float(peaked.double().mean()),
        "best_error": float(best.mean()),
    }
    if answer["estimated"] is not None:
        row["calibration"] = calibration(answer["estimated"], errors)
    return row


def _mean(errors: Tensor) -> float | None:
    return float(errors.mean()) if errors.numel() else None


def calibration(estimated: Tensor, errors: Tensor) -> list[tuple[float, float]]:
    """Return the mean estimated and true error of bins of queries, by estimated error."""
    order = estimated.flatten().argsort()
    bins = order.tensor_split(BINS)
    pairs = torch.stack([estimated.flatten().double(), errors.flatten().double()])
    return [tuple(pairs[:, some].mean(1).tolist()) for some in bins]
