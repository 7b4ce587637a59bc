"""The error of `clusters` in one layer, against dense attention and against the best keys."""

from typing import Any

import torch
from torch import Tensor

import fotmem
from benchmarks.clusters.answers import Answer, answer, tune_budget, tune_error
from benchmarks.clusters.captures import DTYPE, Layer, blocks
from benchmarks.clusters.oracle import Oracle, oracle, relative
from fotmem.measure.capture import KeyValues
from fotmem.stores import MemoryStore

SETTINGS: dict[str, dict[str, Any]] = {
    **{f"budget={n}": {"budget": n, "target_error": None} for n in (160, 640, 2560)},
    **{f"target_error={e}": {"budget": None, "target_error": e} for e in (0.4, 0.1)},
}
"""Beside the default, of which a target error of 0.2 is the larger part."""
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
    answers = {"default": answer(store, queries, scale)}
    for name, tune in (("share", tune_budget), ("share, by error", tune_error)):
        tune(store, queries, scale, share)
        answers[name] = answer(store, queries, scale)
    for name, options in SETTINGS.items():
        store.tune(**options)
        answers[name] = answer(store, queries, scale)
    counts = [max(1, round(each.read)) for each in answers.values()]
    exact = oracle(queries, layer.rows, scale, counts)
    return {name: _figures(each, exact) for name, each in answers.items()}


def _figures(found: Answer, exact: Oracle) -> Row:
    """Compare an answer with the exact ones."""
    errors = relative(found.out, exact.dense)
    best = relative(exact.best[max(1, round(found.read))], exact.dense)
    peaked = exact.peak > PEAKED
    return {
        "read": found.read,
        "error": float(errors.mean()),
        "error_p95": float(errors.quantile(0.95)),
        "error_by_head": errors.mean(1).tolist(),
        "error_peaked": _mean(errors[peaked]),
        "error_diffuse": _mean(errors[~peaked]),
        "peaked": float(peaked.double().mean()),
        "best_error": float(best.mean()),
        "calibration": calibration(found.estimated, errors),
    }


def _mean(errors: Tensor) -> float | None:
    return float(errors.mean()) if errors.numel() else None


def calibration(estimated: Tensor, errors: Tensor) -> list[tuple[float, float]]:
    """Return the mean estimated and true error of bins of queries, by estimated error."""
    order = estimated.flatten().argsort()
    bins = order.tensor_split(BINS)
    pairs = torch.stack([estimated.flatten().double(), errors.flatten().double()])
    return [tuple(pairs[:, some].mean(1).tolist()) for some in bins]
