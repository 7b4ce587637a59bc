"""The time of `clusters` against dense attention, as the memory grows."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.clusters.captures import DTYPE, lengthened
from benchmarks.clusters.errors import Row
from benchmarks.clusters.plan import STEP, Plan
from benchmarks.clusters.rivals import GROUP
from benchmarks.clusters.turns import Times, in_turn, ratio
from fotmem import create_store
from fotmem.attention import dense_attention
from fotmem.measure.capture import KeyValues
from fotmem.stores import MemoryStore

WINDOW = 512
"""Queries of a head in a window."""
WINDOWS = 3
"""Rounds in which windows are timed."""
CACHES = {"cold": False, "warm": True}
"""Whether caches hold what the same call left there: a model's other layers clear them."""
DENSE = (torch.bfloat16, torch.float32)
"""Dense attention is timed in both; the faster one counts."""


class Sides(NamedTuple):
    """What is timed."""

    stores: dict[int, MemoryStore]
    """`clusters` of each size."""
    dense: dict[str, KeyValues]
    """All keys and values, by the name of their dtype."""
    queries: Tensor
    """Shape ``[H, Q, D]``, in bfloat16."""
    scale: float


def times(rows: KeyValues, queries: Tensor, scale: float, plan: Plan) -> list[Row]:
    """Time decoding steps and windows at all sizes, in turn."""
    rows = lengthened(rows, max(plan.steps))
    dense = {str(dtype).removeprefix("torch."): _as(rows, dtype) for dtype in DENSE}
    sides = Sides(grown(rows, plan.steps), dense, queries.to(DTYPE), scale)
    found: list[Row] = []
    for caches, warm in CACHES.items():
        steps = in_turn(_calls(sides, plan.steps, GROUP), plan.rounds, warm=warm)
        every = [_row("step", size, steps) for size in plan.steps]
        every += [_tenfold(steps, plan.tenfold)]
        if not warm:  # a window takes far longer than to fill caches
            windows = in_turn(_calls(sides, plan.windows, WINDOW), WINDOWS)
            every += [_row("window", size, windows) for size in plan.windows]
        found += [row | {"caches": caches} for row in every]
    return found


def grown(rows: KeyValues, sizes: tuple[int, ...]) -> dict[int, MemoryStore]:
    """Return a store of the first rows for each of the sizes, ascending."""
    heads, _, dim = rows.keys.shape
    store = create_store("clusters", num_heads=heads, head_dim=dim, dtype=DTYPE)
    stores = {}
    for size in sizes:
        while len(store) < size:
            some = slice(len(store), min(len(store) + STEP, size))
            store.add(*(each[:, some] for each in rows))
        stores[size] = store.copy() if size < max(sizes) else store
    return stores


def _as(rows: KeyValues, dtype: torch.dtype) -> KeyValues:
    return KeyValues(*(each.to(dtype) for each in rows))


def _calls(sides: Sides, sizes: tuple[int, ...], count: int) -> dict[str, Callable[[int], object]]:
    calls: dict[str, Callable[[int], object]] = {}
    for size in sizes:
        calls[f"clusters {size}"] = partial(_estimate, sides, size, count)
        for name in sides.dense:
            calls[f"{name} {size}"] = partial(_dense, sides, name, size, count)
    return calls


def _some(sides: Sides, number: int, count: int) -> Tensor:
    first = number * count % max(1, sides.queries.shape[1] - count + 1)
    return sides.queries[:, first : first + count].contiguous()


def _estimate(sides: Sides, size: int, count: int, number: int) -> None:
    some = _some(sides, number, count)
    sides.stores[size].attend(some, top_k=None, scale=sides.scale)


def _dense(sides: Sides, name: str, size: int, count: int, number: int) -> None:
    keys, values = (each[None, :, :size] for each in sides.dense[name])
    some = _some(sides, number, count).to(keys.dtype)
    dense_attention(some[None], keys, values, scale=sides.scale)


def _row(kind: str, size: int, taken: Times) -> Row:
    """Compare `clusters` with the faster of both kinds of dense attention."""
    names = [str(dtype).removeprefix("torch.") for dtype in DENSE]
    fastest = min(names, key=lambda name: median(taken[f"{name} {size}"]))
    ours, theirs = taken[f"clusters {size}"], taken[f"{fastest} {size}"]
    return {
        "kind": kind,
        "tokens": size,
        "clusters": median(ours),
        "dense": {name: median(taken[f"{name} {size}"]) for name in names},
        "fastest": fastest,
        "ratio": ratio(theirs, ours),
    }


def _tenfold(taken: Times, sizes: tuple[int, int]) -> dict[str, Any]:
    """Compare a memory with one of ten times as many tokens."""
    small, large = (taken[f"clusters {size}"] for size in sizes)
    return {
        "kind": "tenfold",
        "tokens": sizes[1],
        "clusters": median(large),
        "ratio": ratio(large, small),
    }
