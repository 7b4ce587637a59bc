"""Kept indexes that are read as they are searched: little is read, and damage is mended."""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.directory import memory_directory
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.verify import verify
from fotmem.disk import ChunkedArray, LayerShape
from fotmem.errors import StorageError
from fotmem.memory.kept_indexes import fill_stores, keep_indexes
from fotmem.stores import MemoryStore
from fotmem.testing.store.naive import draw
from tests.memory_rows import FACTS, document
from tests.test_memory_damage import cut, flip, grow, zero

pytest.importorskip("zarr")
BLOCK, HEADS, DIM, ROWS = 16, 2, 6, 16 * 40 + 9
INDEX = "indexes/zarr/00"
ANEW = f"the index {INDEX} of "


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A memory with an index, and the secret of whoever wrote it."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        saved(folder / "memory")
        with Opened(folder / "memory") as memory:
            require_right(memory.store)
        yield folder / "memory"


@pytest.fixture
def path(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "memory"))


def saved(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", BLOCK)
        shapes = {0: LayerShape(HEADS, DIM, torch.float32)}
        directory = MemoryDirectory.create(path, shapes, FACTS)
    ids = torch.arange(ROWS)
    directory.append(ids, ids, ids, {0: rows()})
    directory.commit([document(0, ROWS)])
    directory.close()


def rows() -> tuple[Tensor, Tensor]:
    return draw(HEADS, ROWS, DIM, seed=1), draw(HEADS, ROWS, DIM, seed=2)


class Opened:
    """A memory's directory, and a zarr store of its layer that probes all clusters."""

    def __init__(self, path: Path, *, trusted: bool = False, **options: Any) -> None:
        self.directory = MemoryDirectory.open(path, trusted=trusted)
        sizes: Any = {"num_heads": HEADS, "head_dim": DIM, "ram": 300_000}
        self.store = create_store("zarr", **sizes | options)
        self._before = self.directory.storage.traffic.bytes_read
        fill_stores({0: self.store}, self.directory, 0, progress=False)
        self.index_rows = self.directory.indexes.rows("zarr", 0)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self.directory.close()

    @property
    def bytes_read(self) -> int:
        return self.directory.storage.traffic.bytes_read - self._before


def require_right(store: MemoryStore) -> None:
    """Expect what comparing all keys finds."""
    keys, values = rows()
    queries = draw(HEADS, 5, DIM, seed=7)
    best = (queries @ keys.mT).topk(6, dim=-1)
    hits = store.search(queries, 6)
    torch.testing.assert_close(hits.scores, best.values)
    assert torch.equal(hits.ids, best.indices)
    heads = torch.arange(HEADS)[:, None, None]
    assert torch.equal(store.values(hits.ids), values[heads, hits.ids])


def chunks_at(path: Path) -> int:
    """Find where the chunks begin that an opening does not read."""
    with Opened(path) as memory:
        return chunks_of(memory)


def chunks_of(memory: Opened) -> int:
    found = memory.directory.indexes.read("zarr", 0, memory.store.made_by, ["files/"])
    assert found is not None
    return min(part.start for part in found[1].unread.values())


def change(path: Path, place: int) -> None:
    with (path / INDEX).open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 4]))


# How much is read --------------------------------------------------------------------------------


def test_the_index_knows_nearly_all_rows_and_an_opening_reads_little_of_it(path: Path) -> None:
    size, begin = (path / INDEX).stat().st_size, chunks_at(path)
    with Opened(path) as memory:
        opened = memory.bytes_read
        assert memory.index_rows == ROWS // BLOCK * BLOCK
        tokens, rest = 15 * ROWS, 2000  # and the rows that are not in clusters
        assert begin <= opened < begin + tokens + rest
        assert opened < size / 2
        memory.store.search(draw(HEADS, 1, DIM, seed=7), 1)
        assert memory.bytes_read > opened  # clusters are counted, too
        require_right(memory.store)


@pytest.mark.parametrize("nprobe", [1, 2])
def test_only_the_clusters_that_are_probed_are_read_of_a_zip_file(
    path: Path, tmp_path: Path, nprobe: int
) -> None:
    shutil.make_archive(str(tmp_path / "zipped"), "zip", path)
    with Opened(tmp_path / "zipped.zip", trusted=True, nprobe=nprobe) as memory:
        before, chunks = memory.bytes_read, memory.store.cache_counts
        memory.store.search(draw(HEADS, 1, DIM, seed=7), 1)
        assert chunks == (0, 0)
        cluster, ids = 128 * DIM * 4 + 8, 16 * 128 * 4 + 8
        read = memory.bytes_read - before
        assert 0 < read <= HEADS * (3 * nprobe * cluster + ids)
    with Opened(tmp_path / "zipped.zip", trusted=True) as memory:
        require_right(memory.store)


def test_rows_that_are_few_stay_in_memory(path: Path) -> None:
    shutil.rmtree(path / "indexes")
    with Opened(path, ram="16MiB") as memory:
        require_right(memory.store)
    assert not (path / "indexes").exists()


# Damage that is found while it is searched --------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path / INDEX, chunks_at(path) + 50)


def replace_by_another(path: Path) -> None:
    """Write other bytes into the same file: it has the same size, and other content."""
    overwrite(path, chunks_at(path))


def overwrite(path: Path, begin: int) -> None:
    size = (path / INDEX).stat().st_size
    with (path / INDEX).open("r+b") as file:
        file.seek(begin)
        file.write(Random(3).randbytes(size - begin))


@pytest.mark.parametrize("damage", [truncate, replace_by_another])
def test_damage_is_mended_by_the_search_that_finds_it(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    with Opened(path) as memory:
        damage(path)
        caplog.clear()
        require_right(memory.store)
        assert [record.name for record in caplog.records] == ["fotmem"]
        assert ANEW in caplog.text
        assert "chunk " in caplog.text
        assert not (path / INDEX).exists()  # nobody may close this memory
        keep_indexes({0: memory.store}, memory.directory)
    caplog.clear()
    with Opened(path) as memory:
        assert memory.index_rows == ROWS // BLOCK * BLOCK
        require_right(memory.store)
    assert not caplog.records
    assert not verify(path).damages


def test_a_file_that_is_removed_or_replaced_meanwhile_stays_readable(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Opened(path) as memory:
        (path / INDEX).unlink()
        (path / INDEX).write_text("dear")
        shutil.rmtree(path / "layers")  # as another process that compacts
        caplog.clear()
        require_right(memory.store)
        assert not caplog.records


@pytest.mark.parametrize("exact", [False, True])
def test_everything_stays_readable_when_another_process_compacts(path: Path, exact: bool) -> None:
    keys, values = rows()
    queries = draw(HEADS, 5, DIM, seed=7)
    with Opened(path, exact=exact) as memory:
        replace_by_another(path)
        shutil.rmtree(path / "layers")
        require_right(memory.store)
        whole = memory.store.attend(queries, top_k=None, scale=1.0)
        weights = (queries @ keys.mT).softmax(-1)
        torch.testing.assert_close(whole.out, weights @ values)
        bias = memory.store.search(queries, 6, bias=lambda ids: -0.5 * ids.float())
        best = (queries @ keys.mT - 0.5 * torch.arange(ROWS)).topk(6, dim=-1)
        assert torch.equal(bias.ids, best.indices)
        memory.store.add(keys[:, :BLOCK], values[:, :BLOCK])
        assert memory.store.copy().next_id == ROWS + BLOCK


def damaged_somewhere(path: Path, random: Random) -> None:
    how = random.choice([flip, flip, flip, cut, zero, grow])
    how(path, INDEX, random)


@pytest.mark.parametrize("number", [5, pytest.param(200, marks=pytest.mark.thorough)])
def test_random_damage_never_gives_a_wrong_answer_and_is_listed(
    kept: Path, tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    good = (kept / INDEX).read_bytes()
    for seed in range(number):
        path = Path(shutil.copytree(kept, tmp_path / "memory"))
        random = Random(seed)
        while (path / INDEX).read_bytes() == good:
            damaged_somewhere(path, random)
        assert [INDEX in each.problem for each in verify(path).damages] == [True], seed
        with Opened(path) as memory:
            require_right(memory.store)
            keep_indexes({0: memory.store}, memory.directory)
        with Opened(path) as memory:
            require_right(memory.store)
        shutil.rmtree(path)
    assert ANEW in caplog.text


def test_two_threads_that_find_damage_are_both_right(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in range(chunks_at(path), (path / INDEX).stat().st_size, 200):
        change(path, place)
    with Opened(path) as memory:
        barrier, faults = threading.Barrier(4), list[BaseException]()

        def search() -> None:
            try:
                barrier.wait()
                require_right(memory.store)
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
    assert caplog.text.count(ANEW) == 1


def test_what_was_added_and_forgotten_stays_so_when_clusters_are_mended(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(path / "indexes")
    Opened(path, ram=100_000).directory.close()
    more = draw(HEADS, 900, DIM, seed=9)
    with Opened(path, ram=100_000) as memory:
        store = memory.store
        store.add(more[:, :50], -more[:, :50])
        store.forget(100)
        twin = store.copy()
        replace_by_another(path)
        caplog.clear()
        store.add(more[:, 50:], -more[:, 50:])
        assert ANEW in caplog.text  # found when clusters were merged
        require_added(store, more)
        require_added(twin, more[:, :50])  # by a search
        twin.add(more[:, 50:], -more[:, 50:])
        require_added(twin, more)
        twin.close()


def require_added(store: MemoryStore, more: Tensor) -> None:
    """Expect the best of all keys but the 100 oldest."""
    keys = torch.cat([rows()[0], more], 1)[:, 100:]
    queries = draw(HEADS, 5, DIM, seed=7)
    hits = store.search(queries, 6)
    assert torch.equal(hits.ids, (queries @ keys.mT).topk(6, dim=-1).indices + 100)
    assert store.next_id == ROWS + more.shape[1]


def test_an_opening_that_merges_damaged_clusters_builds_all_anew(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(path / "indexes")
    Opened(path, ram=100_000).directory.close()
    begin, more = chunks_at(path), draw(HEADS, 900, DIM, seed=9)
    directory, ids = MemoryDirectory.open(path, writable=True), torch.arange(900)
    directory.append(ids, ids, ids, {0: (more, -more)})
    directory.commit([document(0, ROWS), document(ROWS, ROWS + 900, "b")])
    directory.close()
    overwrite(path, begin)
    for _ in range(2):
        with Opened(path, ram=100_000) as memory:
            memory.store.forget(100)
            require_added(memory.store, more)
    assert caplog.text.count(ANEW) == 1


def test_a_damaged_log_is_an_error_all_the_same(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = sorted((path / "layers" / "00").glob("*/keys/c.0.3.0"))[0]
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    with Opened(path) as memory:
        require_right(memory.store)  # the keys are in the clusters
        change(path, chunks_of(memory) + 40)
        memory.store.tune(nprobe=30)
        empty_cache(memory.store)
        for _ in range(2):
            with pytest.raises(StorageError, match=f"layers/00/.*{file.name} of {path}"):
                require_right(memory.store)


def empty_cache(store: Any) -> None:
    store._contents.cache = type(store._contents.cache)()


@pytest.mark.parametrize("wrong", [10**6, pytest.param(-5, marks=pytest.mark.thorough)])
def test_rows_that_a_right_checksum_covers_are_within_the_segment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: int,
) -> None:
    """As a store with a fault may have written them."""
    path, write = tmp_path / "memory", ChunkedArray.write
    saved(path)

    def wrongly(array: ChunkedArray, head: int, shard: int, data: Tensor) -> None:
        if array.path.endswith("/ids"):
            data = data.clone()
            data[0, 3] = wrong
        write(array, head, shard, data)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkedArray, "write", wrongly)
        patch.setattr("fotmem_zarr.compactor.next_merge", lambda *_: None)
        Opened(path).directory.close()
    caplog.clear()
    with Opened(path) as memory:
        assert memory.index_rows
        queries = draw(HEADS, 40, DIM, seed=7)
        hits = memory.store.search(queries, 600)
        best = (queries @ rows()[0].mT).topk(600, dim=-1)
        assert torch.equal(hits.ids, best.indices)
    assert "names rows that segments/" in caplog.text


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fotmem")
