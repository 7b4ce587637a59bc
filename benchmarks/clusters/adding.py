"""The speed of adding to `clusters`, and the RAM that it takes beyond keys and values."""

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.clusters.captures import DTYPE, blocks, rows_of
from benchmarks.clusters.errors import Row
from fotmem import create_store
from fotmem.measure.capture import Capture, KeyValues
from fotmem.measure.machine import resident
from fotmem.stores import MemoryStore

HEADS = 8
SIDES: dict[str, dict[str, Any]] = {"clusters": {}, "faiss-ivf": {"threads": 1}}
WARM = 5000
"""Random rows of a first store, which makes libraries load what they need."""


def adding(captures: Iterable[Capture], layers: Iterable[int]) -> list[Row]:
    """Add the tokens of all captures, block by block, to each store in turn.

    The heads of several layers are side by side, `HEADS` in all.
    """
    captures, layers = list(captures), list(layers)
    dim = captures[0].info.head_dim
    warm, stores = (
        {
            name: create_store(name, num_heads=HEADS, head_dim=dim, dtype=DTYPE, **options)
            for name, options in SIDES.items()
        }
        for _ in range(2)
    )
    for store in warm.values():
        store.add(*torch.randn(2, HEADS, WARM, dim))
    taken: dict[str, list[float]] = {name: [] for name in stores}
    for capture in captures:
        for block in blocks(side_by_side(capture, layers)):
            for name, store in stores.items():
                begin = time.process_time()
                store.add(*block)
                taken[name].append(time.process_time() - begin)
    return [_adding_row(name, len(stores[name]), each) for name, each in taken.items()]


def side_by_side(capture: Capture, layers: Iterable[int]) -> KeyValues:
    """Return the rows of the first `HEADS` heads of some layers."""
    every = zip(*(rows_of(capture, layer) for layer in layers), strict=True)
    return KeyValues(*(torch.cat(parts)[:HEADS] for parts in every))


def _adding_row(name: str, tokens: int, taken: list[float]) -> Row:
    return {
        "kind": "adding",
        "store": name,
        "tokens": tokens,
        "tokens_per_second": tokens / sum(taken),
        "median": median(taken),
        "longest": max(taken),
    }


def ram(captures: Iterable[Capture], layer: int) -> list[Row]:
    """Measure the RAM of a store in a process of its own, after each of the captures."""
    folders = [str(capture.directory) for capture in captures]
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(_ram, folders, layer).result()


def _ram(folders: list[str], layer: int) -> list[Row]:
    torch.set_num_threads(1)
    every = [rows_of(Capture.open(Path(folder)), layer) for folder in folders]
    heads, _, dim = every[0].keys.shape
    with _empty(heads, dim) as warm:
        warm.add(*torch.randn(2, heads, WARM, dim))
        _ask(warm)
    store, found = _empty(heads, dim), []
    before = resident()
    for rows in every:
        for block in blocks(rows):
            store.add(*block)
        _ask(store)
        needed = 2 * DTYPE.itemsize * heads * dim * len(store)
        found.append(
            {
                "kind": "ram",
                "tokens": len(store),
                "rows": needed,
                "ram_bytes": store.ram_bytes,
                "resident": resident() - before,
            }
        )
    return found


def _ask(store: MemoryStore) -> None:
    """Make a store keep what it keeps for calls."""
    query = torch.zeros(store.num_heads, 1, store.head_dim)
    store.attend(query, top_k=None, scale=1.0)


def _empty(heads: int, dim: int) -> MemoryStore:
    return create_store("clusters", num_heads=heads, head_dim=dim, dtype=DTYPE)
