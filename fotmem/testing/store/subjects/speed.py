"""Times of a store compared with the exact one: reported, and never a failure."""

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fotmem.plugin.create import create_store
from fotmem.stores.store import MemoryStore
from fotmem.testing.store import growing
from fotmem.testing.store.callers_tensors import watch
from fotmem.testing.store.growing import Growth
from fotmem.testing.store.stores import Stores
from fotmem.testing.store.subjects.huge import HugeStore
from fotmem.testing.store.subjects.large import Record

ROUNDS, TOP_K, QUERIES = 5, 32, (1, 64)
SMALL = 1_000


class Speed:
    """Speed."""

    def test_speed_beside_exact(
        self, two: list[Growth], huge: HugeStore, stores: Stores, record_property: Record
    ) -> None:
        """Reports the times of `search` and `attend` as ratios to those of the exact store."""
        keys, values, queries, _, _ = growing.data()
        small = stores.filled(keys[:, :SMALL], values[:, :SMALL])
        table: list[dict[str, float]] = []
        for store, kept, asked in (
            (small, (keys[:, :SMALL], values[:, :SMALL]), queries),
            (two[0].store, (keys, values), queries),
            (huge.store, (huge.keys, huge.values), huge.queries.repeat(1, 2, 1)),
        ):
            exact = _exact_store(store, *kept)
            for count in QUERIES:
                some = asked[:, :count]
                row: dict[str, float] = {"keys": len(store), "queries": count}
                for name, call in (("search", _search), ("attend", _attend)):
                    calls = [functools.partial(call, each, some) for each in (store, exact)]
                    row[name] = _ratio(*calls)
                table.append(row)
                print("beside exact:", row)
            exact.close()
        record_property("speed", table)


def _exact_store(store: MemoryStore, keys: Tensor, values: Tensor) -> MemoryStore:
    exact = create_store(
        "exact", num_heads=store.num_heads, head_dim=store.head_dim, device=store.device
    )
    watch(exact)
    exact.add(keys, values)
    exact.forget(store.first_id)
    return exact


def _search(store: MemoryStore, queries: Tensor) -> None:
    store.search(queries, TOP_K)


def _attend(store: MemoryStore, queries: Tensor) -> None:
    store.attend(queries, top_k=TOP_K, scale=0.1)


def _ratio(call: Callable[[], None], other: Callable[[], None]) -> float:
    """Time two calls in turn; the median of the rounds' ratios."""
    ratios = []
    for _ in range(ROUNDS):
        seconds = []
        for each in (call, other):
            begun = time.perf_counter()
            each()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)
