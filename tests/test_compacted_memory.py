"""The space of removed documents, which `compact` frees."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fotmem import progress
from fotmem.directory import memory_directory
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.row_log import RowLog
from fotmem.directory.verify import verify
from fotmem.disk import GroupFiles, log, log_entries
from fotmem.disk.file_tree import FileTree
from fotmem.errors import StorageError
from tests.commands import call, refusal
from tests.memory_rows import FACTS, SHAPES, assert_equal_rows, document, draw, names
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

BLOCK, BLOCKS, DOCUMENT = 16, 4, 20
KEPT = (0, 2, 3, 6)
"""Documents that are not removed, of seven; they are in three parts."""


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Many blocks and parts of few rows, which no disk has to be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(memory_directory, "BLOCK", BLOCK)
        for module in (log, log_entries):
            patch.setattr(module, "BLOCKS", BLOCKS)
        yield


def written(path: Path, count: int, removed: Sequence[int] = ()) -> Path:
    """Write some documents, and remove some of them."""
    writer = MemoryDirectory.create(path, SHAPES, FACTS)
    entries = [document(n * DOCUMENT, (n + 1) * DOCUMENT, f"{n}") for n in range(count)]
    for some in (entries[:-1], entries[-1:]):
        writer.append(*draw(len(writer), some[-1].stop if some else len(writer)))
        writer.commit([each for each in entries if each.stop <= len(writer)])
    writer.commit(
        [each.model_copy(update={"is_removed": n in removed}) for n, each in enumerate(entries)]
    )
    writer.close()
    return path


def assert_kept(path: Path, kept: Sequence[int]) -> None:
    """Expect the rows of these documents, in a row."""
    directory = MemoryDirectory.open(path)
    spans = [draw(0, 0), *(draw(n * DOCUMENT, (n + 1) * DOCUMENT) for n in kept)]
    ids, starts, stops = (torch.cat([each[column] for each in spans]) for column in range(3))
    layers = {
        layer: tuple(torch.cat([each[3][layer][k] for each in spans], 1) for k in range(2))
        for layer in SHAPES
    }
    assert_equal_rows(directory, (ids, starts, stops, layers))  # type: ignore[arg-type]
    expected = [(f"{n}", at * DOCUMENT, (at + 1) * DOCUMENT) for at, n in enumerate(kept)]
    assert [(e.name, e.first, e.stop) for e in directory.manifest.documents] == expected
    assert names(path) == {*directory.files(), ".lock"}
    assert verify(path).damages == ()


def used(path: Path) -> int:
    return sum((path / name).stat().st_size for name in names(path))


@pytest.mark.parametrize(
    "kept",
    [
        (),
        KEPT,
        (0, 1, 2, 3, 4, 5),
        *(pytest.param(kept, marks=pytest.mark.thorough) for kept in ((6,), (0, 1, 2, 3, 4, 6))),
    ],
)
def test_space_is_reclaimed(tmp_path: Path, kept: tuple[int, ...]) -> None:
    path = written(tmp_path / "memory", 7, removed=[n for n in range(7) if n not in kept])
    before = used(path)
    found = compact(path)
    assert (found.tokens, found.documents) == (len(kept) * DOCUMENT, len(kept))
    gone = 7 - len(kept)
    assert (found.dropped_tokens, found.dropped_documents) == (gone * DOCUMENT, gone)
    assert found.freed_bytes == before - used(path) > 0
    assert_kept(path, kept)
    fresh = written(tmp_path / "fresh", len(kept))
    assert used(path) <= 1.1 * used(fresh)


def test_nothing_to_do(tmp_path: Path) -> None:
    path = written(tmp_path / "memory", 2)
    before = {name: (path / name).read_bytes() for name in names(path)}
    found = compact(path)
    assert (found.dropped_documents, found.freed_bytes, found.tokens) == (0, 0, 40)
    assert {name: (path / name).read_bytes() for name in names(path)} == before


def test_what_comes_before_is_not_written_again(tmp_path: Path) -> None:
    path = written(tmp_path / "memory", 7, removed=[5])
    part = path / "layers/03" / MemoryDirectory.open(path).manifest.layers[0].parts[0].name
    before = {file: file.stat().st_ino for file in part.rglob("*")}
    compact(path)
    assert {file: file.stat().st_ino for file in part.rglob("*")} == before


def test_rows_are_rewritten_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is kept, only two blocks are in RAM."""
    path, most = written(tmp_path / "memory", 7, removed=[0]), 0
    append = RowLog.append

    def watched(self: Any, tensors: Any) -> None:
        nonlocal most
        append(self, tensors)
        most = max(most, len(self) - self.logged)

    monkeypatch.setattr(RowLog, "append", watched)
    compact(path)
    assert BLOCK <= most < 2 * BLOCK


def test_a_damaged_memory_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "memory", 7, removed=[1])
    file = next(path.glob("layers/07/*/keys/c.0.3.0"))
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    before = {name: (path / name).read_bytes() for name in names(path)}
    with pytest.raises(
        StorageError, match=r"chunk \d+ of head 0 of layers/07.*fotmem memory repair .* first"
    ):
        compact(path)
    assert {name: (path / name).read_bytes() for name in names(path)} == before


def test_stopped_halfway_it_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "memory", 7, removed=[1])
    before = {name: (path / name).read_bytes() for name in names(path)}
    with monkeypatch.context() as patch:
        patch.setattr(GroupFiles, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compact(path)
    assert {name: (path / name).read_bytes() for name in names(path)} == before
    write = FileTree.write
    for step in (1, 8, 60):  # files that can be written until the disk is full

        def until_full(*args: Any, **how: Any) -> None:
            nonlocal step
            step -= 1
            if not step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(*args, **how)

        monkeypatch.setattr(FileTree, "write", until_full)
        with pytest.raises(StorageError, match="nothing was lost: make room, then try again"):
            compact(path)
        monkeypatch.setattr(FileTree, "write", write)
        assert {name: (path / name).read_bytes() for name in names(path)} == before
    compact(path)
    assert_kept(path, (0, 2, 3, 4, 5, 6))


def test_a_writer_keeps_it_out(tmp_path: Path) -> None:
    path = written(tmp_path / "memory", 2, removed=[1])
    writer = MemoryDirectory.open(path, writable=True)
    with pytest.raises(StorageError, match="in use by process"):
        compact(path)
    writer.close()
    with pytest.raises(StorageError):
        compact(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    path = written(tmp_path / "memory", 7, removed=[1])
    before = used(path)
    ended = call(capsys, "memory", "compact", path)
    assert (ended.code, ended.out.splitlines()) == (
        0,
        [
            f"dropped 1 removed document of 20 tokens, freed {before - used(path):,} bytes",
            f"{path}: 120 tokens, 6 documents",
        ],
    )
    lines = ended.err.splitlines()
    for doing in ("checking", "compacting"):  # the tokens and two layers, each of 140 rows
        assert sum(line.startswith(f"{doing}: ") for line in lines) > 10
        assert any(line.startswith(f"{doing}: 420 of 420 rows, done") for line in lines)
    stray = path / "layers/07/00000999/zarr.json"  # as a killed writer leaves it
    stray.parent.mkdir()
    stray.write_text("{}", "utf-8")
    ended = call(capsys, "memory", "compact", path)
    assert ended.out.splitlines()[0] == "nothing to do: no document was removed"
    assert not stray.parent.exists()
    assert "holds other zarr data" in refusal(capsys, 1, "memory", "compact", path / "tokens")
