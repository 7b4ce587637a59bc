"""What a memory says of its size and of its searches."""

import copy
import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fotmem
from fotmem.testing.store.naive import draw
from tests import tiny
from tests.test_threads import together
from tests.tiny import LAYERS, WINDOW, generate, one_thread  # noqa: F401 - a fixture

KEY_BYTES = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head dimension, float32


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_sizes(tmp_path: Path) -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        assert (memory.stats().tokens, memory.stats().ram_bytes) == (0, 0)
        memory.read(tiny.ids(40), document="a")
        memory.read(tiny.ids(30, seed=1), document="b")
        stats = memory.stats()
        assert (stats.tokens, stats.documents, stats.disk_bytes) == (70, 2, 0)
        assert stats.ram_bytes == 70 * (KEY_BYTES + 24)
        memory.remove("a")
        memory.save(tmp_path / "memory")
        stats = memory.stats()
        assert (stats.tokens, stats.documents) == (30, 1)
        assert stats.disk_bytes == folder_bytes(tmp_path / "memory") > 70 * KEY_BYTES
        assert stats.cache_hit_rate is None


def test_searches_are_counted_in_the_memory_that_was_searched() -> None:
    model = tiny.llama()
    first = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=3)
    second = fotmem.attach(model, default=False, top_k=None)
    for memory in (first, second):
        memory.read(tiny.ids(40))
        assert (memory.stats().searches, memory.stats().hits) == (0, 0)
    model(tiny.ids(5))
    heads = 4
    assert (first.stats().searches, first.stats().hits) == (2, 2 * heads * 5 * 3)
    with fotmem.using([second, first]):
        model(tiny.ids(5))
    assert (first.stats().searches, second.stats().searches) == (4, 2)
    assert second.stats().hits == 2 * heads * 5 * 40
    assert first.stats().search_seconds > 0
    counted = first.stats().searches
    first.explain()  # is no call of the model
    assert first.stats().searches == counted
    together([lambda: generate(model, tiny.ids(5), 10) for _ in range(4)])
    assert first.stats().searches == counted + 4 * 10 * 2


def test_stores_on_disk_count_their_cache() -> None:
    if not fotmem.available_stores()["zarr"].available:
        pytest.skip(fotmem.available_stores()["zarr"].reason)
    model = tiny.llama()
    with fotmem.attach(model, "zarr", layers=LAYERS, window=WINDOW, ram="1MiB", nprobe=1) as memory:
        memory.read(tiny.ids(2000))
        stats = memory.stats()
        assert stats.disk_bytes >= 1000 * KEY_BYTES
        assert stats.ram_bytes < stats.disk_bytes
        for _ in range(3):
            model(tiny.ids(1))  # the same chunks each time
        rate = memory.stats().cache_hit_rate
        assert rate is not None
        assert 0 < rate < 1


def test_overflow_is_counted_while_somebody_has_the_cache() -> None:
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    other = fotmem.attach(model, default=False)
    caches = [model(tiny.ids(4 * WINDOW).repeat(2, 1)).cache]
    tokens = sum(len(caches[0].store(LAYERS[0], row)) for row in range(2))
    assert tokens > 2 * WINDOW
    stats = memory.stats()
    assert (stats.overflow_tokens, stats.overflow_bytes) == (tokens, tokens * KEY_BYTES)
    assert (stats.ram_bytes, other.stats().overflow_tokens) == (0, 0)
    caches[0].reorder_cache(torch.tensor([1, 1]))  # two beams share a store
    assert memory.stats().overflow_tokens == tokens / 2
    caches.append(copy.deepcopy(caches[0]))
    model(tiny.ids(1).repeat(2, 1), cache=caches[1])
    assert memory.stats().overflow_tokens == tokens
    caches.clear()
    gc.collect()
    assert (memory.stats().overflow_tokens, memory.stats().overflow_bytes) == (0, 0)


GRAPHS = {"faiss-hnsw": "faiss", "hnsw": "hnswlib"}
INDEXES = {"faiss-ivf": "faiss", "faiss-ivfpq": "faiss", **GRAPHS}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_takes_at_least_what_is_saved_of_it(name: str) -> None:
    pytest.importorskip(INDEXES[name])
    heads, count, dim = 2, 5000, 16
    with fotmem.create_store(name, num_heads=heads, head_dim=dim) as store:
        rows = 2 * heads * dim * 4
        store.add(*draw(2 * heads, 4000, dim, seed=1).view(2, heads, -1, dim))
        assert store.ram_bytes == 4000 * rows  # no index yet
        store.add(*draw(2 * heads, count - 4000, dim, seed=2).view(2, heads, -1, dim))
        index, saved = store.ram_bytes - count * rows, store.save_index()
        assert saved is not None
        size = sum(array.nbytes for array in saved.arrays.values())
        locks = heads * 2**16 * 40 if name == "hnsw" else 0
        assert 0.8 * size < index < 2 * size + locks
        assert 0.8 * size < store.copy().ram_bytes - count * rows <= index


RESIDENT = """
import sys
import torch
from fotmem import create_store
from fotmem.measure.machine import resident

def filled(count):
    store = create_store(sys.argv[1], num_heads=2, head_dim=64)
    store.fill(torch.randn(2, 2, min(4096, count - n), 64) for n in range(0, count, 4096))
    return store

filled(5000).search(torch.randn(2, 4, 64), 8)  # libraries load what they need
before = resident()
store = filled(int(sys.argv[2]))
print(store.ram_bytes, resident() - before)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*INDEXES, "exact", "faiss-flat"])
def test_a_store_takes_what_it_says(name: str) -> None:
    """A process grows by that; allocators keep some more."""
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    count = 15_000 if name in GRAPHS else 40_000
    words = [sys.executable, "-c", RESIDENT, name, str(count)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    said, took = map(int, told.split())
    assert 0.8 * took < said < 1.1 * took, said / took
