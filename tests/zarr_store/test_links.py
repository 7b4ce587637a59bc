"""Links and pipes in the place of files and folders."""

import os
import shutil
from pathlib import Path

import pytest

from fotmem.disk.file_tree import FileTree
from fotmem.errors import StorageError
from tests.zarr_store.stores import KINDS, contents, data, opened, used


@pytest.mark.parametrize("kind", [*KINDS, "log/*", "segments/*", "tail/*", "log/*/keys", "."])
def test_no_link_is_followed(store: Path, victim: Path, kind: str) -> None:
    before = contents(victim)
    if kind == ".":  # the folder itself may be one
        link = store.with_name("link")
        link.symlink_to(store)
        used(link)
        return
    (found, *_) = sorted(path for path in store.glob(kind) if path.is_dir())
    shutil.rmtree(found)
    found.symlink_to(victim)
    with pytest.raises(StorageError, match="follows no symbolic link"):
        used(store)
    assert contents(victim) == before
    assert found.is_symlink()


@pytest.mark.parametrize("kind", KINDS)
def test_no_link_made_while_a_store_is_open_is_followed(
    store: Path, victim: Path, kind: str
) -> None:
    before = contents(victim)
    open_store = opened(directory=store)
    (store / kind).rename(store.with_name("away"))
    (store / kind).symlink_to(victim)
    with pytest.raises(StorageError):  # noqa: PT012
        open_store.add(*data(2000))
        open_store.forget(4000)
        open_store.flush()
    del open_store
    assert contents(victim) == before


@pytest.mark.parametrize("link", ["zarr.json", "log/zarr.json", ".lock", "log/*/keys/c.*"])
def test_no_link_to_a_file_is_followed(store: Path, victim: Path, link: str) -> None:
    (*_, path) = sorted(store.glob(link))
    target = victim / "copy"
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(target)
    before = contents(victim)
    with pytest.raises(StorageError):
        used(store)
    assert contents(victim) == before


def test_links_among_leftovers_are_removed_and_not_followed(store: Path, victim: Path) -> None:
    before = contents(victim)
    for name in ("log/00009999", "segments/00009998", "tail/00009997"):
        (store / name).symlink_to(victim)
    used(store)
    assert contents(victim) == before
    assert not [path for path in store.rglob("*") if path.is_symlink()]


def test_files_of_others_are_left_alone(store: Path) -> None:
    notes = [store / "notes.txt", store / "segments" / "my notes", store / "log" / "x.partial"]
    for note in notes:
        note.write_text("dear", "utf-8")
    used(store)
    assert [note.read_text("utf-8") for note in notes] == ["dear"] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("file", ["zarr.json", "log/*/keys/c.*"])
def test_a_pipe_in_place_of_a_file_is_refused(store: Path, file: str) -> None:
    (*_, path) = sorted(store.glob(file))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StorageError, match="not a regular file"):
        used(store)


def test_links_are_refused_where_there_are_no_handles(
    store: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fotmem.disk.file_tree.HANDLES", False)
    assert FileTree(store).handle is None
    used(shutil.copytree(store, store.with_name("plain")))
    shutil.rmtree(store / "segments")
    (store / "segments").symlink_to(victim)
    before = contents(victim)
    with pytest.raises(StorageError, match="follows no symbolic link"):
        used(store)
    assert contents(victim) == before
