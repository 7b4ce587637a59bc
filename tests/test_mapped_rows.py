"""Rows that are looked up on disk, and stores that leave them there."""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fotmem import create_store
from fotmem.directory import memory_directory
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import LayerShape, SavedRows, file_slots, saved_rows
from fotmem.disk.byte_range import ByteRange
from fotmem.disk.file_slots import FileSlots
from fotmem.disk.zip_file import ZipStorage
from fotmem.errors import StorageError
from fotmem.stores import IdRanges, IndexedStore, MemoryStore
from fotmem.stores import indexed_store as indexed
from fotmem.testing.store.naive import draw
from tests.memory_rows import FACTS, document

BLOCK, HEADS, DIM, ROWS = 64, 2, 6, 64 * 12 + 20
STORES = {
    "clusters": "torch",
    "faiss-ivf": "faiss",
    "faiss-ivfpq": "faiss",
    "faiss-hnsw": "faiss",
    "hnsw": "hnswlib",
}


def keys_and_values(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return draw(HEADS, ROWS, DIM, seed=1).to(dtype), draw(HEADS, ROWS, DIM, seed=2).to(dtype)


def saved(path: Path, dtype: torch.dtype, block: int = BLOCK) -> None:
    """Write them, with a tail that fills no block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", block)
        directory = MemoryDirectory.create(path, {0: LayerShape(HEADS, DIM, dtype)}, FACTS)
    ids = torch.arange(ROWS)
    directory.append(ids, ids, ids, {0: keys_and_values(dtype)})
    directory.commit([document(0, ROWS)])
    directory.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "memory"
    saved(path, torch.float32)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "memory"))


def rows_of(path: Path) -> SavedRows:
    return MemoryDirectory.open(path).saved_rows(0)


def chunk_file(path: Path, number: int) -> Path:
    """Find the file of the keys of a block."""
    return next((path / "layers" / "00").glob(f"*/keys/c.0.{number}.0"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=12)
@given(data=st.data())
def test_rows_are_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "memory"
    saved(path, dtype)
    keys, rows = keys_and_values(dtype)[0], rows_of(path).mapped("keys")
    end = len(rows)
    assert end == ROWS // BLOCK * BLOCK
    for _ in range(3):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, end), st.integers(0, end))))
        length = data.draw(st.sampled_from([1, 70, 10**6]))
        place = start
        for first, some in rows.blocks(start, stop, length):
            assert first == place
            assert torch.equal(some, keys[:, first : first + some.shape[1]])
            place += some.shape[1]
        assert place == stop
        shape = data.draw(st.sampled_from([(HEADS, 1, 1), (HEADS, 5, 3), (HEADS, 0, 2)]))
        wanted = torch.randint(-1, end, shape)
        heads = torch.arange(HEADS)[:, None, None]
        assert torch.equal(rows.take(wanted, heads), keys[heads, wanted.clamp(min=0)])


def test_a_damaged_chunk_is_named_when_it_is_asked_for(path: Path) -> None:
    file = chunk_file(path, 3)
    data = bytearray(file.read_bytes())
    data[20] ^= 4  # head 0, row 192
    file.write_bytes(data)
    rows, heads = rows_of(path).mapped("keys"), torch.arange(HEADS)[:, None]
    keys, _ = keys_and_values()
    others = torch.cat([torch.arange(3 * BLOCK), torch.arange(3 * BLOCK + 16, len(rows))])
    assert torch.equal(rows.take(others.expand(HEADS, -1), heads), keys[:, others])
    for _ in range(2):  # a chunk that was refused is refused again
        with pytest.raises(StorageError, match=r"chunk 12 of head 0 of layers/00/\d+/keys .*damag"):
            rows.take(torch.tensor([[192], [0]]), heads)
        with pytest.raises(StorageError, match="damaged"):
            list(rows.blocks(190, 200, 1))


@pytest.mark.parametrize(("what", "message"), [("missing", "missing"), ("short", "truncated")])
def test_files_are_measured_before_they_are_mapped(path: Path, what: str, message: str) -> None:
    file = chunk_file(path, 5)
    if what == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 16 * DIM * 4 + 5])
    with pytest.raises(StorageError, match=f"{message}.*{file.name}"):
        rows_of(path).mapped("keys")
    rows_of(path).mapped("values")


def test_no_store_is_given_what_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values = keys_and_values()
    values[1, 70, 2] = torch.nan
    monkeypatch.setitem(globals(), "keys_and_values", lambda _: (keys, values))
    saved(tmp_path / "memory", torch.float32)
    rows = rows_of(tmp_path / "memory").mapped("values")
    with pytest.raises(StorageError, match=r"chunk 4 of head 1 of .*values holds NaN or infinity"):
        list(rows.blocks(0, len(rows), 1))


def test_a_removed_file_stays_readable(path: Path) -> None:
    rows = rows_of(path).mapped("keys")
    shutil.rmtree(path)
    [(_, found)] = rows.blocks(0, len(rows), len(rows))
    assert torch.equal(found, keys_and_values()[0][:, : len(rows)])


@pytest.mark.parametrize("most", [0, 4])
def test_what_cannot_be_mapped_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(file_slots, "MOST", FileSlots._mapped + most)
    rows = rows_of(path).mapped("keys")
    wanted, heads = torch.tensor([[-1, 700], [5, 300]]), torch.arange(HEADS)[:, None]
    assert torch.equal(rows.take(wanted, heads), keys_and_values()[0][heads, wanted.clamp(min=0)])


def test_only_the_chunks_that_are_asked_for_are_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "zipped"), "zip", path)
    rows = rows_of(tmp_path / "zipped.zip").mapped("keys")
    asked: list[ByteRange] = []
    read = ZipStorage.read

    def noted(self: ZipStorage, parts: Sequence[ByteRange]) -> list[bytes | None]:
        asked.extend(parts)
        return read(self, parts)

    monkeypatch.setattr(ZipStorage, "read", noted)
    wanted, heads = torch.tensor([[70, 71, 70, 135]]), torch.tensor([[1]])
    for count in (2, 0):  # two chunks hold these rows, and both are kept
        asked.clear()
        assert torch.equal(rows.take(wanted, heads), keys_and_values()[0][1:, wanted[0]])
        assert len(asked) == count
        assert rows.ram_bytes == 2 * (16 * DIM * 4 + 8)  # and their checksums


# Stores that leave rows in a directory --------------------------------------------------------


@pytest.fixture(params=STORES)
def stores(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, path: Path
) -> tuple[IndexedStore, IndexedStore]:
    """Return a store of rows on disk, and one that holds the same keys in memory."""
    pytest.importorskip(STORES[request.param])
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    both = [create_store(request.param, num_heads=HEADS, head_dim=DIM) for _ in range(2)]
    there, here = (store for store in both if isinstance(store, IndexedStore))
    rows = rows_of(path)
    there.fill(rows)
    here.fill(list(rows))
    assert there.stored_keys.is_mapped
    assert not here.stored_keys.is_mapped
    return there, here


def newer(ids: Tensor) -> Tensor:
    return 0.01 * ids.float()


def answers(store: MemoryStore) -> list[Tensor]:
    """Ask for all that a store can be asked for."""
    queries, found = draw(HEADS, 9, DIM, seed=5), list[Tensor]()
    among = IdRanges([(100, 300), (500, 505), (store.next_id - 3, store.next_id)])
    for some in (queries[:, :1], queries):
        for top_k in (3, 200):  # by the index, and by comparing all keys
            for bias in (None, newer):
                for rows in (None, among):
                    found += store.search(some, top_k, bias=bias, among=rows)
        for rows in (None, among):
            found += store.attend(some, top_k=None, scale=0.3, among=rows)
            found += store.attend(some, top_k=None, scale=0.3, among=rows, bias=newer)
            found += store.attend(some, top_k=7, scale=0.3, among=rows)
    ids = torch.tensor([[[store.first_id, store.next_id - 1, -1]]]).expand(HEADS, -1, -1)
    return [*found, store.keys(ids), store.values(ids)]


def require_equal(there: MemoryStore, here: MemoryStore) -> None:
    for mine, theirs in zip(answers(there), answers(here), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_stores_answer_as_if_they_held_a_copy(stores: tuple[IndexedStore, IndexedStore]) -> None:
    there, here = stores
    require_equal(there, here)
    assert here.ram_bytes - there.ram_bytes == 2 * (ROWS // BLOCK * BLOCK) * HEADS * DIM * 4
    more = draw(HEADS, 40, DIM, seed=8)
    for store in stores:
        store.add(more, -more)
    require_equal(there, here)
    for store in stores:
        store.forget(130)
    require_equal(there, here)
    for twin in (there.copy(), copy.deepcopy(there)):
        require_equal(twin, here)
    for store in stores:
        store.forget(len(store) - 30)  # what is left was added
    assert not there.stored_keys.is_mapped
    require_equal(there, here)


@pytest.mark.parametrize("exact", [False, True])
def test_a_zarr_store_takes_over_the_log(tmp_path: Path, exact: bool) -> None:
    pytest.importorskip("zarr")
    saved(tmp_path / "memory", torch.float32, block=16)
    rows = rows_of(tmp_path / "memory")
    there, here = (
        create_store("zarr", num_heads=HEADS, head_dim=DIM, ram=200_000, exact=exact)
        for _ in range(2)
    )
    there.fill(rows)
    here.fill(list(rows))
    assert 0 < there.disk_bytes < 0.6 * here.disk_bytes  # clusters, but no log
    require_equal(there, here)
    more = draw(HEADS, 150, DIM, seed=8)
    for store in (there, here):
        store.add(more, -more)
        store.forget(130)
    require_equal(there, here)
    require_equal(there.copy(), here)
    there.close()
    assert len(next(iter(rows))[0][0]) == ROWS  # the memory's files are not the store's


def test_a_zarr_store_of_less_ram_than_a_block_takes_a_copy(path: Path) -> None:
    pytest.importorskip("zarr")
    rows = rows_of(path)
    store = create_store("zarr", num_heads=HEADS, head_dim=DIM, ram=100_000)
    store.fill(rows)
    assert store.save_index() is None  # no clusters of the memory's own log
    assert store.disk_bytes > rows.log.end * HEADS * DIM * 8
    ids = torch.arange(ROWS).expand(HEADS, 1, -1)
    assert torch.equal(store.keys(ids)[:, 0], keys_and_values()[0])


def test_an_opening_that_fails_leaves_an_empty_store(
    stores: tuple[IndexedStore, IndexedStore], path: Path
) -> None:
    chunk_file(path, 2).unlink()
    store = stores[0].new_empty()
    with pytest.raises(StorageError, match="missing"):
        store.fill(rows_of(path))
    assert len(store) == 0
    keys = draw(HEADS, 60, DIM, seed=3)  # too few for an index
    store.add(keys, keys)
    torch.testing.assert_close(store.search(keys, 1).scores[..., 0], (keys @ keys.mT).amax(2))


def test_a_store_that_fails_on_adding_keeps_the_rows(
    stores: tuple[IndexedStore, IndexedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = stores

    def refuse(*_: object) -> None:
        raise MemoryError("no more")

    more = draw(HEADS, 40, DIM, seed=8)
    for store in stores:
        with monkeypatch.context() as patch:
            patch.setattr(store, "extend_index", refuse)
            with pytest.raises(MemoryError):
                store.add(more, more)
        store.add(more, -more)
    require_equal(there, here)


def test_the_clusters_of_a_zarr_store_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    saved(tmp_path / "memory", torch.float32, block=16)
    rows = rows_of(tmp_path / "memory")

    def new() -> MemoryStore:
        return create_store("zarr", num_heads=HEADS, head_dim=DIM, ram=200_000)

    store, told = new(), list[int]()
    assert not store.fill(rows, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == ROWS
    index = store.save_index()
    assert index is not None
    again = new()
    assert again.fill(rows, index)
    assert again.disk_bytes < store.disk_bytes / 2  # only what was merged since
    require_equal(again, store)
    second = again.save_index()
    assert second is not None
    assert second.rows == index.rows
    store.close()  # its temporary files are gone
    third = new()
    assert third.fill(rows, second)
    require_equal(third, again)
    for damaged in (
        {**index.arrays, "clusters": index.arrays["clusters"][:-5]},
        {name: array for name, array in index.arrays.items() if name != "files/0/1"},
    ):
        anew = new()
        assert not anew.fill(rows, replace(index, arrays=damaged))
        require_equal(anew, again)


@pytest.mark.parametrize("start", [0, 1, BLOCK, ROWS - 25, ROWS - 20, ROWS - 3, ROWS])
def test_rows_since_any_row(path: Path, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_rows, "BULK", 200 * HEADS * DIM)
    blocks = list(rows_of(path).since(start))
    for which, whole in enumerate(keys_and_values()):
        found = torch.cat([whole[:, :0], *(pair[which] for pair in blocks)], 1)
        assert torch.equal(found, whole[:, start:])


def test_a_zarr_store_that_fails_on_hub_keys_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zarr")
    from fotmem_zarr.index.hub_keys import HubRows

    saved(tmp_path / "memory", torch.float32, block=16)
    store = create_store("zarr", num_heads=HEADS, head_dim=DIM, ram=200_000)

    def failing(*_: object, **__: object) -> HubRows:
        raise StorageError("a broken disk")

    with monkeypatch.context() as patch:
        patch.setattr(HubRows, "grown", failing)
        with pytest.raises(StorageError, match="a broken disk"):
            store.fill(rows_of(tmp_path / "memory"))
    keys = draw(HEADS, ROWS, DIM, seed=3)  # so many that the first lie on disk
    store.add(keys, -keys)
    assert len(store) == ROWS
    ids = torch.arange(ROWS).expand(HEADS, 1, -1)
    assert torch.equal(store.keys(ids)[:, 0], keys)
