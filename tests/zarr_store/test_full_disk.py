"""Disks that are full, broken or gone, and what is synced when."""

import errno
import functools
import gc
import os
import resource
import shutil
from pathlib import Path

import pytest

from fotmem.disk.file_tree import FileTree
from fotmem.disk.folder import Folder
from fotmem.errors import StorageError
from fotmem.testing.store.naive import draw
from tests.zarr_store.stores import DIM, HEADS, KINDS, assert_holds, data, fill, look_at, opened


@pytest.mark.parametrize("writes", [0, 5, 30, 90])
def test_nothing_is_lost_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    keys, values = data()
    store = opened(directory=tmp_path)
    store.add(keys[:, :400], values[:, :400])
    store.flush()
    plain, room = Folder.write, [writes]

    def write(self: Folder, key: str, content: bytes, *, synced: bool = False) -> None:
        if not room[0]:
            full = OSError(errno.ENOSPC, "No space left on device")
            raise self.failure("write", key, full, "make room") from full
        room[0] -= 1
        plain(self, key, content, synced=synced)

    monkeypatch.setattr(Folder, "write", write)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        store.add(-keys[:, 400:], values[:, 400:])
    assert_holds(store, keys[:, :400], values[:, :400])
    with pytest.raises(StorageError):
        store.add(-keys[:, 400:], values[:, 400:])
    room[0] = 10**6
    store.add(keys[:, 400:], values[:, 400:])
    assert_holds(store, keys, values)
    store.close()
    with opened(directory=tmp_path) as again:
        assert_holds(again, keys, values)


def test_a_flush_syncs_all_files_and_adding_syncs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values = data()
    plain, synced = os.fsync, list[int]()

    def fsync(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    store = opened(directory=tmp_path)
    begun = len(synced)
    for k, v in zip(keys.split(500, 1), values.split(500, 1), strict=True):
        store.add(k, v)
    assert len(synced) == begun
    store.flush()
    written = [path for path in tmp_path.rglob("*") if path.name != ".lock"]
    assert {path.stat().st_ino for path in written if path.is_file()} <= set(synced)
    if os.name == "posix":
        folders = [path for path in written if path.is_dir() and any(path.glob("c.*"))]
        assert {path.stat().st_ino for path in folders} <= set(synced)


def test_a_manifest_is_durable_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, a power failure could leave the name with nothing in it."""
    plain, replace, synced, named = os.fsync, os.replace, set[int](), list[bool]()

    def fsync(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        plain(handle)

    def replace_file(source: str, target: str, **folders: int | None) -> None:
        at = folders["dst_dir_fd"]
        if target == "zarr.json" and at and os.path.samestat(os.fstat(at), tmp_path.stat()):
            named.append(os.stat(source, dir_fd=folders["src_dir_fd"]).st_ino in synced)
        replace(source, target, **folders)

    store = opened(directory=tmp_path)
    store.add(*data())
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace_file)
    store.flush()
    assert named == [True] * (os.name == "posix")


def test_no_manifest_names_files_whose_sync_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values = data()
    store = opened(directory=tmp_path)
    store.add(keys[:, :400], values[:, :400])
    store.flush()
    store.add(keys[:, 400:], values[:, 400:])

    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match="Input/output error; repair the disk"):
            store.flush()
    with pytest.raises(StorageError, match="Input/output error"):  # though fsync succeeds now
        store.flush()
    assert_holds(store, keys, values)
    del store
    gc.collect()  # errors hold it, too
    with opened(directory=tmp_path) as again:
        assert_holds(again, keys[:, :400], values[:, :400])


def test_the_folders_above_a_new_store_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, synced = os.fsync, set[int]()

    def fsync(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    fill(tmp_path / "a" / "b" / "store", 10)
    folders = (tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "store")
    assert {folder.stat().st_ino for folder in folders} <= synced


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_store_on_a_full_disk_opens_for_reading(
    store: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shutil.rmtree(store / "segments")  # so that opening would have to write

    def write(self: FileTree, key: str, content: bytes, *, synced: bool) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as full:
        full.setattr(FileTree, "write", write)
        with opened(directory=store) as found:
            assert_holds(found, *data(), forgotten=300)
            with pytest.raises(StorageError, match="cannot be written to"):
                found.add(*data(1))
            found.forget(10)
            found.flush()
    with opened(directory=store) as found:
        look_at(found)
        found.add(*data(1))


def test_too_many_open_files_are_named(store: Path) -> None:
    found, other = opened(directory=store), shutil.copytree(store, store.with_name("other"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        for call in (
            functools.partial(opened, directory=other),
            functools.partial(found.attend, draw(HEADS, 9, DIM), top_k=None, scale=1.0),
            functools.partial(found.add, *data(900)),
            found.flush,
        ):
            with pytest.raises(StorageError, match=r"Too many open files; .*ulimit"):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    look_at(found)
    found.flush()
    found.close()


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
def test_a_flush_into_a_removed_folder_is_refused(store: Path, how: str) -> None:
    found = opened(directory=store)
    found.add(*data(2000))
    if how == "moved":
        store.rename(store.with_name("elsewhere"))
    else:
        shutil.rmtree(store)
    if how == "replaced":
        store.mkdir()
    with pytest.raises(StorageError, match=r"was removed or replaced|No such file"):
        found.flush()
    with pytest.raises(StorageError):
        found.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flush_that_would_name_removed_files_is_refused(store: Path, kind: str) -> None:
    found = opened(directory=store)
    shutil.rmtree(store / kind)
    found.add(*data(5))
    with pytest.raises(StorageError, match="was removed while the store was open"):
        found.flush()
