"""The errors of other stores at the time that `clusters` takes for a decoding step."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

import fotmem
from benchmarks.clusters.captures import DTYPE, Layer, blocks
from benchmarks.clusters.errors import Row
from benchmarks.clusters.oracle import oracle, relative
from benchmarks.clusters.turns import Times, in_turn, ratio
from fotmem.measure.capture import KeyValues
from fotmem.stores import MemoryStore, SavedIndex
from fotmem.stores.saved_index import named_parts, part_of

EFFORTS: dict[str, dict[str, tuple[int, ...]]] = {
    "faiss-ivf": {"nprobe": (8, 16, 32, 64, 128, 256)},
    "hnsw": {"ef_search": (32, 64, 128, 256, 512)},
}
TOP_K = (32, 128, 512)
GROUP = 3
"""Queries of a head in a decoding step: query heads that share it in SmolLM2-135M."""
QUERIES = 64
"""Queries of a head whose errors are compared."""
LONGER = 1.25
"""A rival may take so many times as long."""


def layer_rivals(ours: MemoryStore, layer: Layer, rounds: int, kept: Path) -> Row:
    """Compare a store with the best that each rival does in its time."""
    rows, queries, scale = layer.rows, layer.queries[:, :QUERIES], layer.scale
    dense = oracle(queries, rows, scale, [1]).dense
    found = ours.attend(queries, top_k=None, scale=scale).out
    row: Row = {"error": float(relative(found, dense).mean()), "rivals": {}}
    for name in EFFORTS:
        store = kept_store(name, rows, kept / f"{layer.name}-{name}.npz")
        times = _timed(ours, name, store, layer.queries.to(DTYPE), scale, rounds)
        unit = times.pop("clusters")
        row["step"] = median(unit)
        chosen = [
            _measured(store, asked, times[key], unit, queries, scale, dense)
            for key, asked in candidates(times, median(unit)).items()
        ]
        row["rivals"][name] = min(chosen, key=lambda each: float(each["error"]))
    return row


def _timed(
    ours: MemoryStore, name: str, store: MemoryStore, queries: Tensor, scale: float, rounds: int
) -> Times:
    """Time a decoding step of `clusters` and of each setting of a rival, in turn."""

    def some(number: int) -> Tensor:
        first = number * GROUP % (queries.shape[1] - GROUP)
        return queries[:, first : first + GROUP].contiguous()

    def step(number: int, effort: int, top_k: int) -> None:
        store.tune(**{_option(name): effort})
        store.attend(some(number), top_k=top_k, scale=scale)

    sides: dict[str, Callable[[int], object]] = {
        "clusters": lambda number: ours.attend(some(number), top_k=None, scale=scale)
    }
    for effort in EFFORTS[name][_option(name)]:
        for top_k in TOP_K:
            sides[json.dumps((effort, top_k))] = partial(step, effort=effort, top_k=top_k)
    return in_turn(sides, rounds)


def candidates(times: Mapping[str, list[float]], unit: float) -> dict[str, tuple[int, int]]:
    """Return the slowest setting of each top k that is fast enough; if none is, the fastest."""
    settings = {key: tuple(json.loads(key)) for key in times}
    typical = {key: median(each) for key, each in times.items()}
    found: dict[int, str] = {}
    for key in sorted(typical, key=lambda each: typical[each]):
        if typical[key] <= LONGER * unit:
            found[settings[key][1]] = key
    if not found:
        found[0] = min(typical, key=lambda each: typical[each])
    return {key: settings[key] for key in found.values()}


def _measured(
    store: MemoryStore,
    asked: tuple[int, int],
    times: list[float],
    unit: list[float],
    queries: Tensor,
    scale: float,
    dense: Tensor,
) -> Row:
    effort, top_k = asked
    option = next(iter(store.search_options))
    store.tune(**{option: effort})
    out = store.attend(queries, top_k=top_k, scale=scale).out
    return {
        "setting": f"{option}={effort}, top {top_k}",
        "ratio": ratio(times, unit),
        "error": float(relative(out, dense).mean()),
    }


def _option(name: str) -> str:
    return next(iter(EFFORTS[name]))


def kept_store(name: str, rows: KeyValues, file: Path) -> MemoryStore:
    """Return a store of these rows; its index is kept in a file, since graphs take long."""
    heads, _, dim = rows.keys.shape
    store = fotmem.create_store(name, num_heads=heads, head_dim=dim, dtype=DTYPE, threads=1)
    index = read_index(file) if file.exists() else None
    if not store.fill(blocks(rows), index) and (built := store.save_index()) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        about = json.dumps({"made_by": built.made_by, "rows": built.rows})
        arrays: dict[str, Any] = {**named_parts("arrays", built.arrays)}
        part = file.with_suffix(".part.npz")
        np.savez(part, about=np.array(about), **arrays)
        part.replace(file)
    return store


def read_index(file: Path) -> SavedIndex:
    """Read an index that was kept."""
    with np.load(file) as kept:
        about: dict[str, Any] = json.loads(str(kept["about"]))
        arrays = {name: kept[name] for name in kept.files if name != "about"}
    return SavedIndex(**about, arrays=part_of(arrays, "arrays"))
