"""A memory whose removed documents are dropped by `compact`."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem import progress
from fotmem.directory import memory_directory
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.row_log import RowLog
from fotmem.directory.verify import verify
from fotmem.disk import GroupFiles, log, log_entries
from fotmem.disk.file_tree import FileTree
from fotmem.errors import StorageError
from fotmem.memory import kept_indexes, saving
from fotmem.stores import indexed_store
from fotmem.tasks.passages import passages
from tests import tiny
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


# Answers


def attached(model: Any, store: str = "exact") -> fotmem.Memory:
    how: dict[str, Any] = {"layers": LAYERS, "window": WINDOW, "top_k": 4, "decay": 0.5}
    return fotmem.attach(model, store=store, **how)


def read(memory: fotmem.Memory, documents: str) -> None:
    for name in documents:
        memory.read(tiny.ids(60, seed=ord(name)), document=name)


def saved(path: Path, store: str = "exact") -> fotmem.Memory:
    """Read four documents, two of which are removed, and stay the writer."""
    memory = attached(tiny.llama(), store)
    read(memory, "abcd")
    memory.save(path)
    memory.remove("a")
    memory.remove("c")
    return memory


def expected(store: str = "exact") -> fotmem.Memory:
    memory = attached(tiny.llama(), store)
    read(memory, "bd")
    return memory


class Tokenizer:
    """Shows tokens by their numbers."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def answer(memory: fotmem.Memory, top_k: int | None = 4) -> tuple[torch.Tensor, list[Any]]:
    """Return logits, and the passages that they came from."""
    model = memory.attached_model.parts.model
    memory.top_k = top_k
    logits = model(tiny.ids(9, seed=5)).logits
    attended = memory.explain(top=10)
    found = passages(memory, Tokenizer(), attended, around=2)
    firsts = {each.name: each.first for each in memory.documents}
    spans = [(p.document, p.tokens[0] - firsts[p.document], p.text) for p in found]
    return logits, [spans, [(a.layer, a.token_id) for a in attended]]


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    torch.testing.assert_close(one[0], other[0])
    assert one[1] == other[1]


@pytest.mark.parametrize(
    "store, top_k",
    [
        ("exact", 4),
        *(
            pytest.param(store, top_k, marks=pytest.mark.thorough)
            for store in ("hnsw", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "zarr")
            for top_k in (4, None)
        ),
    ],
)
def test_answers_do_not_change(tmp_path: Path, store: str, top_k: int | None) -> None:
    """They are those of a memory that has read only what is kept."""
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    writer, right = saved(tmp_path / "memory", store), answer(expected(store), top_k)
    assert_same(answer(writer, top_k), right)
    writer.close()
    compact(tmp_path / "memory")
    with fotmem.open_memory(tmp_path / "memory", tiny.llama(), store) as again:
        assert_same(answer(again, top_k), right)
        assert torch.equal(again.tokens, expected().tokens)
        with again.only(["d"]):
            assert {each.position // 60 for each in (answer(again), again.explain())[1]} == {1}


def test_a_reader_goes_on_and_takes_over_the_compacted_memory(tmp_path: Path) -> None:
    writer = saved(tmp_path / "memory")
    writer.close()
    reader = fotmem.open_memory(tmp_path / "memory", tiny.llama())
    right = answer(reader)
    assert_same(right, answer(expected()))
    compact(tmp_path / "memory")
    assert_same(answer(reader), right)
    assert len(reader.tokens) == 240
    with reader.only(["d"]):
        alone = answer(reader)
        assert reader.refresh()
        assert_same(answer(reader), alone)
    assert not reader.refresh()
    assert_same(answer(reader), right)
    assert torch.equal(reader.tokens, expected().tokens)
    more = fotmem.open_memory(tmp_path / "memory", tiny.llama(), writable=True)
    read(more, "e")
    assert reader.refresh()
    assert_same(answer(reader), answer(more))
    more.remove("b")
    more.close()
    compact(tmp_path / "memory")  # a reader that has missed nothing but this
    assert reader.refresh()
    assert [each.name for each in reader.documents] == ["d", "e"]
    reader.close()


def test_documents_are_dropped_while_a_reader_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fill = tmp_path / "memory", kept_indexes.fill_stores
    saved(path).close()

    def late(*args: Any, **options: Any) -> None:
        """The files that the reader is about to read are gone."""
        monkeypatch.setattr(saving, "fill_stores", fill)
        compact(path)
        fill(*args, **options)

    monkeypatch.setattr(saving, "fill_stores", late)
    with fotmem.open_memory(path, tiny.llama()) as reader:
        assert_same(answer(reader), answer(expected()))
        assert torch.equal(reader.tokens, expected().tokens)


def test_a_call_sees_nothing_of_a_refresh_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = saved(tmp_path / "memory")
    reader = fotmem.open_memory(tmp_path / "memory", tiny.llama())
    before, seen, tokens = answer(reader), [], MemoryDirectory.tokens
    read(writer, "e")

    def between(directory: MemoryDirectory, start: int, stop: int) -> Any:
        seen.append(answer(reader))  # all stores have grown, the documents have not
        return tokens(directory, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryDirectory, "tokens", between)
        assert reader.refresh()
    assert_same(seen[0], before)
    assert_same(answer(reader), answer(writer))
    reader.close()
    writer.close()


def test_a_refresh_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fill = tmp_path / "memory", kept_indexes.fill_stores
    writer = saved(path)
    reader = fotmem.open_memory(path, tiny.llama())
    right = answer(reader)

    def failing(stores: Any, directory: Any, start: int, **_: Any) -> None:
        for _, keys, values in directory.blocks(LAYERS[0], start, len(directory)):
            stores[LAYERS[0]].add(keys, values)
        raise StorageError("a broken disk")

    for change in ("read", "compact"):
        if change == "read":
            read(writer, "e")
        else:
            writer.close()
            compact(path)
        monkeypatch.setattr(saving, "fill_stores", failing)
        for _ in range(2):
            with pytest.raises(StorageError, match="a broken disk"):
                reader.refresh()
            assert_same(answer(reader), right)
        monkeypatch.setattr(saving, "fill_stores", fill)
        assert reader.refresh()
        right = answer(writer) if writer.attached else right
        assert_same(answer(reader), right)
    reader.close()


def test_indexes_of_before_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("hnswlib")
    monkeypatch.setattr(indexed_store, "EXACT_BELOW", 16)
    path = tmp_path / "memory"
    saved(path, "hnsw").close()
    index = path / "indexes/hnsw/01"
    before = index.read_bytes()
    reader = fotmem.open_memory(path, tiny.llama())
    compact(path)
    assert not index.exists()
    caplog.set_level("INFO", "fotmem")
    reader.use("hnsw")
    assert_same(answer(reader), answer(expected()))
    reader.close()
    assert "the index indexes/hnsw/01 is not kept: the memory has changed" in caplog.text
    assert not index.exists()
    index.write_bytes(before)
    with fotmem.open_memory(path, tiny.llama(), "hnsw") as again:
        assert_same(answer(again), answer(expected()))
    assert "documents were dropped since it was made" in caplog.text
    assert index.read_bytes() != before


@pytest.mark.thorough
@pytest.mark.parametrize("store", ["exact", "hnsw"])
def test_in_object_storage(
    tmp_path: Path,
    s3: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    store: str,
) -> None:
    """An exact store has a copy of all; one with an index looks up what is no longer there."""
    if store == "hnsw":
        pytest.importorskip("hnswlib")
    monkeypatch.setattr(indexed_store, "EXACT_BELOW", 16)
    path = tmp_path / "memory"
    saved(path).close()
    url = s3.upload(path, store)
    reader = fotmem.open_memory(url, tiny.llama(), store)
    ended = call(capsys, "memory", "compact", url)
    assert not ended.err
    assert ended.out.splitlines()[0] == "dropped 2 removed documents of 120 tokens"
    if store == "exact":
        assert_same(answer(reader), answer(expected()))
    else:
        with pytest.raises(StorageError, match=r"is missing.*Memory\.refresh takes over"):
            answer(reader)
    assert reader.refresh()
    assert len(reader.tokens) == 120
    assert_same(answer(reader), answer(expected()))
    reader.close()
