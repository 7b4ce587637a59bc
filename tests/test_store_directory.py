"""The directory of a persistent store: whole or refused, whatever happens to its files."""

import errno
import gc
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import fotmem
from fotmem.errors import OptionError, StorageError
from fotmem.stores import StoreDirectory


def opened(path: Path, *, format: str = "test 1", **layer: Any) -> StoreDirectory:
    store = fotmem.create_store("exact", **{"num_heads": 2, "head_dim": 4, **layer})
    return StoreDirectory(path, store, format=format, suffix=".rows")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Write a directory in two commits, and close it."""
    path = tmp_path / "above" / "store"
    directory = opened(path)
    first = directory.write(b"first")
    directory.commit([first], rows=1)
    directory.commit([first, directory.write(b"second")], rows=2)
    directory.close()
    return path


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def expect_whole(path: Path) -> None:
    directory = opened(path)
    assert directory.facts == {"rows": 2}
    assert [directory.read(f"0000000{number}.rows") for number in range(2)] == [b"first", b"second"]
    directory.close()


def test_files_and_facts_of_the_last_commit_are_there_again(filled: Path) -> None:
    expect_whole(filled)
    assert names(filled) == [".lock", "00000000.rows", "00000001.rows", "manifest.json"]


def test_files_that_a_commit_does_not_name_are_removed_and_names_never_come_again(
    filled: Path,
) -> None:
    directory = opened(filled)
    directory.commit([directory.write(b"third")])
    assert names(filled) == [".lock", "00000002.rows", "manifest.json"]
    with pytest.raises(StorageError, match=r"00000000\.rows is missing"):
        directory.read("00000000.rows")


@pytest.mark.parametrize("file", ["00000001.rows", "manifest.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-2],
        lambda content: content + b" ",
        lambda content: content.replace(b"2", b"3").replace(b"s", b"t"),
        lambda content: b"[" * 100_000,
        lambda content: b"null",
        None,
    ],
)
def test_damage_is_named_and_the_directory_let_go(
    filled: Path, file: str, damage: Callable[[bytes], bytes] | None
) -> None:
    content = (filled / file).read_bytes()
    if damage is None:
        (filled / file).unlink()
    elif file == "manifest.json" and damage(content)[:-1] == content:
        return  # JSON does not care
    else:
        (filled / file).write_bytes(damage(content))
    with pytest.raises(StorageError, match=file.replace(".", r"\.")):
        expect_whole(filled)
    (filled / file).write_bytes(content)
    expect_whole(filled)


def test_a_manifest_that_was_edited_is_refused(filled: Path) -> None:
    file = filled / "manifest.json"
    content = file.read_text("utf-8")
    assert '"rows": 2' in content
    file.write_text(content.replace('"rows": 2', '"rows": 3'), "utf-8")
    with pytest.raises(StorageError, match=r"manifest\.json is damaged \(its checksum differs\)"):
        expect_whole(filled)


def test_files_of_another_directory_are_damage(filled: Path, tmp_path: Path) -> None:
    other = opened(tmp_path / "other")
    other.commit([other.write(b"another"), other.write(b"store")])
    (tmp_path / "other" / "00000001.rows").replace(filled / "00000001.rows")
    with pytest.raises(StorageError, match=r"00000001\.rows is damaged \(its checksum differs"):
        expect_whole(filled)


@pytest.mark.parametrize(
    "other", [{"num_heads": 3}, {"head_dim": 8}, {"dtype": torch.float16}, {"format": "test 2"}]
)
def test_another_layer_or_format_is_refused(filled: Path, other: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"holds test 1 with H=2 heads of D=4 in float32, but"):
        opened(filled, **other)
    expect_whole(filled)


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", "utf-8")
    with pytest.raises(StorageError, match=r"has no manifest\.json, but letter\.txt"):
        opened(tmp_path)
    assert names(tmp_path) == ["letter.txt"]


@pytest.mark.parametrize("file", ["00000001.rows", "manifest.json"])
def test_no_link_is_followed_and_no_pipe_waited_for(filled: Path, file: str) -> None:
    target = filled.parent / "target"
    (filled / file).replace(target)
    (filled / file).symlink_to(target)
    with pytest.raises(StorageError, match=file.replace(".", r"\.")):
        expect_whole(filled)
    if hasattr(os, "mkfifo"):
        (filled / file).unlink()
        os.mkfifo(filled / file)
        with pytest.raises(StorageError, match=file.replace(".", r"\.")):
            expect_whole(filled)
    assert target.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", ".lock", "00000001"])
def test_a_manifest_names_no_file_outside(filled: Path, name: str) -> None:
    with pytest.raises(StorageError, match="is not a file of a store"):
        opened(filled).read(name)


def test_what_a_killed_writer_left_goes_with_the_next_commit(filled: Path) -> None:
    for name in ("00000007.rows", "00000007.rows.partial", "notes.txt", "00000007.other"):
        (filled / name).write_bytes(b"")
    directory = opened(filled)
    directory.commit(["00000000.rows", "00000001.rows"], rows=2)
    directory.close()
    assert {"notes.txt", "00000007.other"} == set(names(filled)) - {
        ".lock",
        "00000000.rows",
        "00000001.rows",
        "manifest.json",
    }
    expect_whole(filled)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_changes_nothing(
    filled: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    directory = opened(filled)

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, broken, fail)
        with pytest.raises(StorageError, match=r"cannot write 00000002\.rows .*No space left"):
            directory.write(b"third")
    assert names(filled) == [".lock", "00000000.rows", "00000001.rows", "manifest.json"]
    directory.commit(["00000000.rows", directory.write(b"again")])
    assert directory.read("00000002.rows") == b"again"


def test_after_a_failed_sync_of_names_nothing_is_committed(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = opened(filled)

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("fotmem.stores.directory_files.sync_folder", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            directory.commit([])
    with pytest.raises(StorageError, match="open the store again: it is as of its last flush"):
        directory.commit([])
    directory.close()
    expect_whole(filled)


def test_a_directory_that_cannot_be_written_opens_for_reading(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(lock: FileLock) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    one, other = opened(filled), opened(filled)
    assert one.read("00000000.rows") == other.read("00000000.rows") == b"first"
    with pytest.raises(StorageError, match="Read-only file system"):
        one.commit([])
    with pytest.raises(StorageError, match="Read-only file system"):
        opened(filled.parent / "new")


def test_a_second_writer_is_refused_until_the_first_is_gone(filled: Path) -> None:
    first = opened(filled)
    (filled / ".lock").unlink()  # lets nobody in
    with pytest.raises(StorageError, match="is in use by another writer"):
        opened(filled)
    first.close()
    with pytest.raises(StorageError, match="is closed"):
        first.commit([])
    second = opened(filled)
    del second
    gc.collect()
    expect_whole(filled)


def test_the_manifest_is_json(filled: Path) -> None:
    content = json.loads((filled / "manifest.json").read_text("utf-8"))
    assert content["facts"] == {"rows": 2}
    assert list(content["files"]) == ["00000000.rows", "00000001.rows"]


def test_a_path_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    for name in ("file/store", "a\0b", 300 * "x"):
        with pytest.raises(StorageError, match="cannot open the lock of"):
            opened(tmp_path / name)


def test_a_url_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = fotmem.create_store("exact", num_heads=2, head_dim=4)
    with pytest.raises(OptionError, match="must be a folder, got the URL 's3://bucket/store'"):
        StoreDirectory("s3://bucket/store", store, format="test 1")
    assert not names(tmp_path)


def test_all_that_a_manifest_names_is_durable_before_it(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, done = opened(filled), list[str]()
    replace, fsync = os.replace, os.fsync

    def replaced(source: Path, target: Path) -> None:
        done.append(target.name)
        replace(source, target)

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    directory.commit([directory.write(b"third")])
    folder = ["folder"] * (os.name == "posix")
    assert done == ["file", "00000002.rows", *folder, "file", "manifest.json", *folder]
