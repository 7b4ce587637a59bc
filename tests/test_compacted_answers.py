"""Answers of a compacted memory, and of readers that were open meanwhile."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import StorageError
from fotmem.memory import kept_indexes, saving
from fotmem.stores import indexed_store
from fotmem.tasks.passages import passages
from tests import tiny
from tests.commands import call
from tests.test_compacted_memory import small_blocks  # noqa: F401 - a fixture
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture


def attached(model: Any, store: str = "exact") -> fotmem.Memory:
    how: dict[str, Any] = {
        "layers": LAYERS,
        "window": WINDOW,
        "top_k": 4,
        "decay": 0.5,
        "recent": 40,
    }
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
