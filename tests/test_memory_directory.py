"""The directory of a memory: its commits, its readers, and what lies in it."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fotmem.directory import memory_directory
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import LayerShape
from fotmem.disk.file_tree import FileTree
from fotmem.errors import StorageError
from tests.memory_rows import (
    FACTS,
    SHAPES,
    assert_holds,
    document,
    draw,
    names,
    read_as_the_page_says,
)

BLOCK = 64


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", BLOCK)
        yield


def created(path: Path) -> MemoryDirectory:
    return MemoryDirectory.create(path, SHAPES, FACTS)


def add(directory: MemoryDirectory, count: int) -> None:
    directory.append(*draw(len(directory), len(directory) + count))


def commit(directory: MemoryDirectory) -> None:
    last = document(0, len(directory), is_complete=False)
    directory.commit([last] if len(directory) else [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@settings(max_examples=6)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2 * BLOCK + 9), st.sampled_from(["add", "commit", "reopen"])),
        max_size=7,
    )
)
def test_any_order_of_calls(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "memory"
    writer, reader, committed = created(path), MemoryDirectory.open(path), 0
    for count, what in steps:
        add(writer, count)
        if what != "add":
            commit(writer)
            committed = len(writer)
        if what == "reopen":
            writer.close()
            writer = MemoryDirectory.open(path, writable=True)
        assert_holds(writer, len(writer))
        reader.refresh()
        assert_holds(reader, committed)
    writer.close()
    assert_holds(MemoryDirectory.open(path), committed)


def test_the_page_on_the_format_reads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program needs the rules of the page, JSON and zarr."""
    writer = created(path)
    for count in (2 * BLOCK, 7, 5):
        add(writer, count)
        commit(writer)
    writer.close()
    monkeypatch.chdir(path.parent)
    names = read_as_the_page_says()
    ids, starts, _, layers = draw(0, 2 * BLOCK + 12)
    assert np.array_equal(names["ids"], ids)
    assert np.array_equal(names["keys"], layers[3][0])
    read, manifest = names["read"], names["manifest"]
    assert np.array_equal(read("tokens", manifest["tokens"], "starts")[0], starts)
    values = names["vectors"](manifest["layers"][1], "value")
    assert np.array_equal(values, layers[7][1].float())


def test_no_stray_file_survives_the_next_writer(path: Path) -> None:
    writer = created(path)
    add(writer, BLOCK + 5)
    commit(writer)
    before = names(path)
    add(writer, 3 * BLOCK)
    for log in writer._rows.logs():
        log.flush()  # killed before its manifest was written
    assert len(names(path)) > len(before)
    writer._storage.close()
    again = MemoryDirectory.open(path, writable=True)
    assert names(path) == before
    assert_holds(again, BLOCK + 5)
    add(again, 1)
    commit(again)
    again.close()
    del writer
    gc.collect()  # its groups had the names that those of the next writer have now
    kept = sum(1 for name in names(path) if "/c." in name)
    assert kept == (2 * len(SHAPES) + 3) * 3  # a block and two pieces of each array
    assert_holds(MemoryDirectory.open(path), BLOCK + 6)


def test_a_stray_file_with_a_name_that_the_next_writer_gives_elsewhere(path: Path) -> None:
    writer = created(path)
    add(writer, 10)
    commit(writer)
    writer.close()
    # The next writer gives this name to tokens first.
    stray = path / f"layers/07/{writer.manifest.next_name:08d}"
    stray.mkdir()
    (stray / "zarr.json").write_text("{}", "utf-8")
    again = MemoryDirectory.open(path, writable=True)
    add(again, 5)
    commit(again)
    assert names(path) == {*again.files(), ".lock"}
    again.close()


def test_space(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 1.1 times the keys and values, of sizes as models have them."""
    monkeypatch.setattr(memory_directory, "BLOCK", 1024)
    shape = LayerShape(3, 64, torch.bfloat16)
    writer = MemoryDirectory.create(path, {7: shape}, FACTS)
    rows = 4 * 1024 + 100
    vectors = torch.zeros(3, rows, 64)
    ids = torch.zeros(rows)
    writer.append(ids, ids, ids, {7: (vectors, vectors)})
    writer.commit([document(0, rows)])
    used = sum((path / name).stat().st_size for name in names(path))
    assert used < 1.1 * 2 * vectors.numel() * 2
    writer.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "memory"
    writer = created(path)
    for count in (BLOCK + 40, 10, 5):
        add(writer, count)
        commit(writer)
    writer.close()
    return path


ROWS = BLOCK + 55


def test_nothing_outside_is_read(filled: Path, tmp_path: Path) -> None:
    """No link is followed, whatever a manifest or a folder says."""
    import shutil

    path = Path(shutil.copytree(filled, tmp_path / "memory"))
    keys = next(path.glob("layers/03/*/keys"))
    keys.rename(tmp_path / "elsewhere")
    keys.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(StorageError, match="symbolic link"):
        assert_holds(MemoryDirectory.open(path), ROWS)


def test_a_reader_that_opens_while_pieces_are_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = created(path)
    add(writer, 10)
    commit(writer)
    read = FileTree.read

    def late(self: FileTree, ranges: Any) -> Any:
        """The writer commits between the reading of the manifest and of the first piece."""
        if any("/keys/c." in part.key for part in ranges):
            monkeypatch.setattr(FileTree, "read", read)
            add(writer, 30)
            commit(writer)
        return read(self, ranges)

    monkeypatch.setattr(FileTree, "read", late)
    assert_holds(MemoryDirectory.open(path), 40)
    writer.close()


def test_the_lock_names_its_holder_and_a_dead_holder_does_not_keep_it(path: Path) -> None:
    created(path).close()
    code = (
        "import sys; from fotmem.directory.memory_directory import MemoryDirectory\n"
        "held = MemoryDirectory.open(sys.argv[1], writable=True); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=f"is in use by process {process.pid}; close it"):
            MemoryDirectory.open(path, writable=True)
        MemoryDirectory.open(path)  # a reader is let in
        process.kill()
        process.wait()
    MemoryDirectory.open(path, writable=True).close()
