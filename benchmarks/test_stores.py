"""Each store's `search` against the bare library: the same index, keys, threads and queries."""

import functools

import pytest
from torch import Tensor

import fotmem
from benchmarks.bare import bare_search
from benchmarks.captured import Source, blocks, taken
from benchmarks.conftest import Compare, Sources

TOP_K = 32
STORES = ["faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw"]


@functools.lru_cache(maxsize=1)  # the slowest parameters come last: one store at a time is in use
def filled(name: str, source: Source, tokens: int) -> tuple[fotmem.MemoryStore, Tensor, Tensor]:
    """Return a store of so many tokens, its keys, and queries."""
    keys, _, queries = taken(source, tokens)
    store = fotmem.create_store(name, num_heads=len(keys), head_dim=keys.shape[2])
    for some in blocks(source, tokens, 2048):
        store.add(*some)
    return store, keys, queries


@pytest.mark.parametrize("queries", [4096, 1])
@pytest.mark.parametrize("kind", ["captured", "random"])
@pytest.mark.parametrize("name", STORES)
def test_search(
    name: str, kind: str, queries: int, timed: bool, sources: Sources, compare: Compare
) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    store, keys, every = filled(name, sources(kind, timed), 2**16 if timed else 5000)
    bare = bare_search(store, name, keys)
    some = every[:, : queries if timed else 10].contiguous()
    ours, theirs = store.search(some, TOP_K).scores.mean(), bare(some, TOP_K)[1].mean()
    assert ours > theirs - 0.1 * theirs.abs(), "the two sides do not look for the same"
    compare(
        lambda: store.search(some, TOP_K),
        lambda: bare(some, TOP_K),
        rounds=200 if queries == 1 else 5,
    )
