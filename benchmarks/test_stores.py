"""Each store's `search` against the bare library: the same index, keys, threads and queries."""

import functools

import pytest
from torch import Tensor

import fotmem
from benchmarks.bare import bare_search
from benchmarks.conftest import Captures, Compare
from fotmem.measure.capture import Capture
from fotmem.stores import MemoryStore

TOP_K, STEP = 32, 2048
STORES = ["faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw"]


@functools.lru_cache(maxsize=1)  # the slowest parameters come last: one store at a time is in use
def filled(name: str, capture: Capture) -> tuple[MemoryStore, Tensor, Tensor]:
    """Return a store of the first layer, its keys, and queries."""
    info, layer = capture.info, capture.info.layers[0]
    store = fotmem.create_store(name, num_heads=info.num_heads, head_dim=info.head_dim)
    for rows in capture.blocks(layer, STEP):
        store.add(*rows)
    return store, capture.rows(layer).keys, capture.queries(layer)


@pytest.mark.parametrize("queries", [4096, 1])
@pytest.mark.parametrize("kind", ["captured", "random"])
@pytest.mark.parametrize("name", STORES)
def test_search(
    name: str, kind: str, queries: int, timed: bool, captures: Captures, compare: Compare
) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    store, keys, every = filled(name, captures(kind))
    bare = bare_search(store, name, keys)
    some = every[:, : queries if timed else 10].contiguous()
    ours, theirs = store.search(some, TOP_K).scores.mean(), bare(some, TOP_K)[1].mean()
    assert ours > theirs - 0.1 * theirs.abs(), "the two sides do not look for the same"
    compare(
        lambda: store.search(some, TOP_K),
        lambda: bare(some, TOP_K),
        rounds=200 if queries == 1 else 11,
    )
