"""Each store's `search` among some ids against its search among all of them."""

import functools

import pytest
import torch
from torch import Tensor

import fotmem
from benchmarks.conftest import Compare
from fotmem.stores import IdRanges, MemoryStore
from fotmem.testing.store.attention_data import attention_data
from tests.tiny import one_thread  # noqa: F401 - a fixture

HEADS, DIM, TOP_K, STEP, DOCUMENTS = 2, 64, 32, 2048, 64
STORES = ["exact", "faiss-ivf", "hnsw", "zarr"]
SHARES = [61, 32, 8, 1]
"""Documents of 64 that are searched; they are spread evenly."""


@functools.lru_cache(maxsize=1)
def filled(name: str, kind: str, size: int) -> tuple[MemoryStore, Tensor]:
    """Return a store of keys like those of attention, or of random ones, and queries."""
    if kind == "attention":
        keys, _, queries = attention_data(HEADS, size, 64, DIM)
    else:
        generator = torch.Generator().manual_seed(0)
        keys, queries = (torch.randn(HEADS, n, DIM, generator=generator) for n in (size, 64))
    store = fotmem.create_store(name, num_heads=HEADS, head_dim=DIM)
    for piece in keys.split(STEP, dim=1):
        store.add(piece, piece)
    return store, queries


@pytest.mark.parametrize("queries", [1, 64])
@pytest.mark.parametrize("documents", SHARES)
@pytest.mark.parametrize("kind", ["attention", "random"])
@pytest.mark.parametrize("name", STORES)
def test_search(
    name: str, kind: str, documents: int, queries: int, timed: bool, compare: Compare
) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    store, every = filled(name, kind, 2**16 if timed else 2**10)
    length, some = len(store) // DOCUMENTS, every[:, :queries]
    chosen = {number * DOCUMENTS // documents for number in range(documents)}
    among = IdRanges([(each * length, (each + 1) * length) for each in chosen])
    compare(
        lambda: store.search(some, TOP_K, among=among),
        lambda: store.search(some, TOP_K),
        rounds=40 if queries == 1 else 10,
    )
