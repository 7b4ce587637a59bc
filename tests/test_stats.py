"""What a memory says of its size and of its searches."""

from pathlib import Path

import pytest

import fotmem
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
