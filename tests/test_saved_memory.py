"""A memory that is saved, opened again, read into, and seen by others."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.documents import Document, TokenizedDocument
from fotmem.errors import AttachError, OptionError, StorageError
from fotmem.memory import saving
from fotmem.memory.view import MemoryView
from tests import tiny
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

STORES = ["exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr"]


def attached(model: Any, **options: Any) -> fotmem.Memory:
    return fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=4, **options)


def answer(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(tiny.ids(9, seed=5)).logits
    return logits


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("store", STORES)
def test_any_store_opens_a_saved_memory(tmp_path: Path, store: str) -> None:
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    model = tiny.llama()
    with attached(model) as memory:
        memory.read(tiny.ids(70), document="a.txt")
        memory.read(tiny.ids(31, seed=1))
        expected = answer(model)
        memory.save(tmp_path / "memory")
        memory.close()
    with fotmem.open_memory(tmp_path / "memory", tiny.llama(), store) as again:
        assert torch.equal(again.tokens, memory.tokens)
        assert again.documents == memory.documents
        assert [each.name for each in again.documents] == ["a.txt", ""]
        assert (again.options, again.layers) == (memory.options, memory.layers)
        for layer in LAYERS:
            ids = torch.arange(101).expand(again.store(layer).num_heads, 1, -1)
            assert torch.equal(again.store(layer).keys(ids), memory.store(layer).keys(ids))
            assert torch.equal(again.store(layer).values(ids), memory.store(layer).values(ids))
        torch.testing.assert_close(answer(again.attached_model.parts.model), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reading_on_equals_an_uninterrupted_reading(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "COMMIT", 20)
    model, ids, more = tiny.llama(), tiny.ids(100), tiny.ids(40, seed=1)
    with attached(model, dtype=dtype) as whole:
        whole.read(ids, document="a", overlap=3)
        whole.read(more, document="b", overlap=3)
    with attached(model, dtype=dtype) as memory:
        memory.save(tmp_path / "memory")
        with monkeypatch.context() as patch:
            patch.setattr("fotmem.memory.contents.Contents.append", stopped_after(50))
            with pytest.raises(KeyboardInterrupt):
                memory.read(ids, document="a", overlap=3)
        memory.close()
    read = fotmem.open_memory(tmp_path / "memory", model, writable=True)
    assert 20 <= len(read) < 100
    assert not read.documents[-1].is_complete
    read.read(ids, document="a", overlap=3)
    read.read(more, document="b", overlap=3)
    read.close()
    again = fotmem.open_memory(tmp_path / "memory", model)
    assert torch.equal(again.tokens, whole.tokens)
    assert [(each.name, each.tokens, each.is_complete) for each in again.documents] == [
        ("a", 100, True),
        ("b", 40, True),
    ]
    for layer in LAYERS:
        ids = torch.arange(140).expand(again.store(layer).num_heads, 1, -1)
        assert torch.equal(again.store(layer).keys(ids), whole.store(layer).keys(ids))
        assert torch.equal(again.store(layer).values(ids), whole.store(layer).values(ids))
    again.close()


def stopped_after(tokens: int) -> Any:
    append = fotmem.memory.contents.Contents.append

    def stopping(self: Any, rows: Any, pieces: Any) -> None:
        if len(self) > tokens:
            raise KeyboardInterrupt
        append(self, rows, pieces)

    return stopping


def test_a_reader_sees_commits_after_refresh(tmp_path: Path) -> None:
    model, other = tiny.llama(), tiny.llama()
    writer = attached(model)
    writer.save(tmp_path / "memory")
    reader = fotmem.open_memory(tmp_path / "memory", other)
    assert not reader.refresh()
    for count in (3000, 10, 5, 2100):
        writer.read(tiny.ids(count, seed=count))
        before = len(reader)
        assert reader.refresh()
        assert len(reader) == len(writer) == before + count
        assert torch.equal(reader.tokens, writer.tokens)
        assert reader.documents == writer.documents
        torch.testing.assert_close(answer(other), answer(model))
    assert not reader.refresh()
    with pytest.raises(StorageError, match="was opened for reading; open it for writing"):
        reader.read(tiny.ids(5))
    assert len(reader) == len(writer)
    reader.close()
    writer.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = attached(tiny.llama())
    writer.save(tmp_path / "memory")
    with pytest.raises(StorageError, match="in use by process"):
        fotmem.open_memory(tmp_path / "memory", tiny.llama(), writable=True)
    writer.close()
    with pytest.raises(StorageError, match="is closed; open it again"):
        fotmem.attach(tiny.llama(), memory=writer).read(tiny.ids(5))
    fotmem.open_memory(tmp_path / "memory", tiny.llama(), writable=True).close()


def test_another_model_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    with attached(tiny.llama()) as memory:
        memory.read(tiny.ids(30))
        memory.save(tmp_path / "memory")
        memory.close()
    before = files_of(tmp_path / "memory")
    changed = tiny.llama()
    with torch.no_grad():
        changed.model.layers[3].self_attn.k_proj.weight[0, 0] += 0.1
    for model, difference in (
        (changed, "weights: the memory has"),
        (tiny.llama("theta"), "rope: the memory has"),
        (tiny.llama("mha"), "architecture: the memory has"),
        (
            tiny.llama(hidden_act="gelu"),
            "config: the memory has hidden_act silu, .* the model hidden",
        ),
        (tiny.llama(rms_norm_eps=1e-3), "config: the memory has .*rms_norm_eps 1e-06, the model"),
    ):
        with pytest.raises(StorageError, match=f"filled by another model: .*{difference}"):
            fotmem.open_memory(tmp_path / "memory", model)
        assert not hasattr(model.model, "fotmem")
        fotmem.attach(model, layers=LAYERS).detach()  # nothing is left of the refused opening
    later = tiny.llama(num_hidden_layers=5)
    same = tiny.llama()
    with torch.no_grad():
        same.lm_head.weight += 1  # comes after the last memory layer
    fotmem.open_memory(tmp_path / "memory", same).close()
    fotmem.open_memory(tmp_path / "memory", tiny.llama().bfloat16().float()).close()
    with pytest.raises(StorageError, match="another model"):
        fotmem.open_memory(tmp_path / "memory", later)
    assert files_of(tmp_path / "memory") == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_weights_in_another_dtype_are_the_same_model(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    for mine, others in ((torch.float32, dtype), (dtype, torch.float32)):
        path = tmp_path / str(mine)
        with attached(tiny.llama(dtype=mine)) as memory:
            memory.save(path)
            memory.close()
        fotmem.open_memory(path, tiny.llama(dtype=others)).close()


@pytest.mark.parametrize("dtypes", list(permutations([torch.bfloat16, torch.float16])))
def test_weights_that_were_converted_twice_are_the_same(
    tmp_path: Path, dtypes: tuple[torch.dtype, ...]
) -> None:
    """As a float32 model whose checkpoint is in one dtype, and is loaded in the other."""
    twice: Any = tiny.llama()
    for dtype in dtypes:
        twice = twice.to(dtype)
    pair = (tiny.llama(), twice)
    for number, (mine, other) in enumerate((pair, pair[::-1])):
        with attached(mine) as memory:
            memory.save(tmp_path / f"{number}")
            memory.close()
        fotmem.open_memory(tmp_path / f"{number}", other).close()


def test_what_is_no_memory_is_refused(tmp_path: Path) -> None:
    model = tiny.llama()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("missing", "No such file or directory"),
        ("other", "is not a memory of fotmem: it has no zarr.json, but letter.txt"),
        ("empty", "not a memory of fotmem|there is no memory in"),
        ("file", "is not a zip file"),
    ):
        with pytest.raises(StorageError, match=reason):
            fotmem.open_memory(tmp_path / name, model)
        with pytest.raises(StorageError, match=reason):
            fotmem.open_memory(tmp_path / name, model, writable=name != "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "other"]
    assert not list((tmp_path / "empty").iterdir())
    memory = attached(model)
    with pytest.raises(StorageError, match=r"letter\.txt; choose an empty directory"):
        memory.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]
    memory.save(tmp_path / "new")
    memory.save(tmp_path / "copy")
    assert memory.directory == str(tmp_path / "new")
    with pytest.raises(StorageError, match="holds a memory already"):
        memory.save(tmp_path / "copy")
    memory.close()


def test_a_kept_memory_is_not_cleared_or_replaced(tmp_path: Path) -> None:
    memory = attached(tiny.llama())
    memory.read(tiny.ids(30))
    memory.save(tmp_path / "memory")
    for change in (memory.clear, lambda: memory.replace(3, 5, tiny.ids(4))):
        with pytest.raises(StorageError, match="would change what is kept in"):
            change()
    before = files_of(tmp_path / "memory")
    with memory.temporarily():
        memory.read(tiny.ids(9))
        memory.replace(3, 5, tiny.ids(4))
        memory.clear()
        with pytest.raises(AttachError, match="end the block"):
            memory.save(tmp_path / "other")
    assert (len(memory), files_of(tmp_path / "memory")) == (30, before)
    memory.use("zarr")
    memory.read(tiny.ids(9))
    memory.close()
    with fotmem.open_memory(tmp_path / "memory", tiny.llama()) as again:
        assert len(again) == 39


def test_a_detached_memory_can_be_attached_again(tmp_path: Path) -> None:
    model, other = tiny.llama(), tiny.llama()
    memory = attached(model)
    memory.read(tiny.ids(50))
    expected = answer(model)
    with pytest.raises(AttachError, match="attached to a model already"):
        fotmem.attach(other, memory=memory)
    memory.detach()
    assert fotmem.attach(other, memory=memory) is memory
    torch.testing.assert_close(answer(other), expected)
    memory.detach()
    with pytest.raises(AttachError, match="another model: architecture"):
        fotmem.attach(tiny.llama("mha"), memory=memory)
    fotmem.attach(model, "zarr", memory=memory)
    assert {type(store).__name__ for store in memory.stores.values()} == {"ZarrStore"}
    torch.testing.assert_close(answer(model), expected)
    memory.detach()
    with pytest.raises(OptionError, match="layers and dtype are those of the memory"):
        fotmem.attach(model, memory=memory, layers=[1])


def test_wrong_names_are_refused() -> None:
    memory = attached(tiny.llama())
    for name in ("", " ", 5, "x" * 5000):
        with pytest.raises(ValueError, match="document must be a name"):
            memory.read(tiny.ids(5), document=name)  # type: ignore[arg-type]
    assert (len(memory), memory.documents) == (0, [])
    memory.read(tiny.ids(5), document="a")
    for wrong in (5, None, ["a"]):
        with pytest.raises(OptionError, match="a document is named by a string"):
            memory.remove(wrong)  # type: ignore[arg-type]
    for names, message in (([5], "named by a string"), (None, "must be a list of names")):
        with pytest.raises(OptionError, match=message), memory.only(names):  # type: ignore[arg-type]
            pass


def test_of_many_documents_a_message_names_some() -> None:
    memory = attached(tiny.llama())
    for number in range(120):
        memory.read([], document=f"{number:03d}")
    with pytest.raises(OptionError, match=r"no document 'x'; .*: 000, 001, .*, 099 and 20 others"):
        memory.remove("x")


def test_a_removal_that_cannot_be_committed_changes_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = attached(tiny.llama())
    memory.read([], document="empty")
    memory.read(tiny.ids(5), document="a")
    memory.save(tmp_path / "memory")
    before = memory.documents
    with monkeypatch.context() as patch:
        patch.setattr(MemoryDirectory, "commit", failing)
        with pytest.raises(StorageError, match="full"):
            memory.remove("a")
    assert memory.documents == before
    memory.close()


def failing(self: object, documents: object) -> None:
    raise StorageError("the disk is full")


def test_a_removal_does_the_same_work_among_many_documents(tmp_path: Path) -> None:
    def calls(count: int) -> int:
        memory = attached(tiny.llama())
        for number in range(count):
            memory.read([], document=f"{number}")
        memory.save(tmp_path / f"{count}")
        found = Counter[str]()
        sys.setprofile(lambda frame, event, argument: found.update([event]))
        try:
            memory.remove(f"{count - 1}")
        finally:
            sys.setprofile(None)
        memory.close()
        return found["call"]

    few, many = calls(10), calls(150)
    assert abs(many - few) < 140  # not one call more for each document


@pytest.mark.parametrize(
    ("start", "stop", "put", "documents"),
    [
        (0, 10, 3, [("", 0, 13), ("b", 13, 30)]),
        (10, 20, 0, [("", 0, 10), ("b", 10, 30)]),
        (5, 5, 4, [("", 0, 24), ("b", 24, 30)]),
        (20, 20, 4, [("a", 0, 20), ("", 20, 4), ("b", 24, 30)]),
        (0, 20, 4, [("", 0, 4), ("b", 4, 30)]),
        (15, 25, 4, [("", 0, 15), ("", 15, 4), ("", 19, 25)]),
    ],
)
def test_a_document_of_which_a_part_is_replaced_stays_one(
    start: int, stop: int, put: int, documents: list[tuple[str, int, int]]
) -> None:
    memory = attached(tiny.llama())
    memory.read(tiny.ids(20), document="a")
    memory.read(tiny.ids(30), document="b")
    memory.replace(start, stop, tiny.ids(put))
    assert [(each.name, each.first, each.tokens) for each in memory.documents] == documents


def test_documents_after_a_replacement() -> None:
    memory = attached(tiny.llama())
    for name, count in (("a", 20), ("b", 30), ("c", 10)):
        memory.read(tiny.ids(count), document=name)
    memory.replace(25, 28, tiny.ids(7))
    assert [(each.name, each.first, each.tokens) for each in memory.documents] == [
        ("a", 0, 20),
        ("", 20, 34),
        ("c", 54, 10),
    ]


# Documents


def tokenized(name: str, count: int, seed: int = 0) -> TokenizedDocument:
    """A document whose tokens cover two characters each."""
    ids = tiny.ids(count, seed=seed)[0]
    places = torch.arange(count, dtype=torch.int32)
    text = "".join(f"{int(token):02}" for token in ids)
    return TokenizedDocument(Document(name, text), ids, 2 * places, 2 * places + 2)


def assert_hidden(memory: fotmem.Memory, start: int, stop: int) -> None:
    """Expect that no store finds ids from `start` to before `stop`, though it has their keys."""
    for layer in LAYERS:
        store = memory.store(layer)
        ids = torch.arange(start, stop).expand(store.num_heads, 1, -1)
        queries = 9 * store.keys(ids)[:, 0]
        for each, bias in ((store, None), (store, flat), (store.copy(), None)):
            hits = each.search(queries, len(store), bias=bias)
            assert not ((hits.ids >= start) & (hits.ids < stop)).any()
            assert (hits.ids >= 0).any(-1).all()


def flat(ids: torch.Tensor) -> torch.Tensor:
    return torch.zeros(ids.shape)


def test_a_call_can_be_explained_after_an_empty_document_was_read() -> None:
    model = tiny.llama()
    memory = attached(model)
    memory.read(tiny.ids(20), document="a")
    memory.read(tiny.ids(20, seed=1), document="b")
    memory.remove("a")
    answer(model)
    sources = memory.explain()
    memory.read([], document="empty")
    assert sources == memory.explain() != []


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("top_k", [4, None])
def test_nothing_is_found_of_a_removed_document(
    tmp_path: Path, store: str, top_k: int | None
) -> None:
    """In no layer, by no store, before and after the memory is opened again."""
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    model = tiny.llama()
    with attached(model, decay=0.5) as expected:
        for name in ("a", "c"):
            expected.read(tokenized(name, 60, seed=ord(name)))
        expected.top_k = top_k
        right = answer(model)
    with attached(model, store=store, decay=0.5) as memory:
        memory.top_k = top_k
        for name in ("a", "b", "c", "d"):
            memory.read(tokenized(name, 60, seed=ord(name)))
        memory.save(tmp_path / "memory")
        memory.remove("b")
        with memory.only(["a", "c"]):
            torch.testing.assert_close(answer(model), right)
        assert_hidden(memory, 60, 120)
        memory.remove("d")
        torch.testing.assert_close(answer(model), right)
        found = {each.position for each in memory.explain(top=1000)}
        assert found <= {*range(60), *range(120, 180)}
        assert (len(memory), len(memory.tokens)) == (120, 240)
        with pytest.raises(OptionError, match="the memory has no document 'b'"):
            memory.remove("b")
        memory.close()
    with fotmem.open_memory(tmp_path / "memory", model, store) as again:
        torch.testing.assert_close(answer(model), right)
        assert [each.name for each in again.documents] == ["a", "c"]
        assert_hidden(again, 60, 120)
        assert_hidden(again, 180, 240)
        with again.only("c"), again.only(["a"]):  # nothing is in both
            assert again.explain() == [] or not torch.equal(answer(model), right)


def test_a_reader_sees_removals(tmp_path: Path) -> None:
    model, other = tiny.llama(), tiny.llama()
    writer = attached(model)
    writer.read(tokenized("a", 40))
    writer.read(tokenized("b", 40, seed=1))
    writer.save(tmp_path / "memory")
    reader = fotmem.open_memory(tmp_path / "memory", other)
    writer.remove("a")
    before = answer(other)
    assert reader.refresh()
    assert reader.documents == writer.documents
    assert not torch.equal(answer(other), before)
    torch.testing.assert_close(answer(other), answer(model))
    with pytest.raises(StorageError, match="was opened for reading"):
        reader.remove("b")
    reader.close()
    writer.close()


def test_a_changed_document_replaces_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = attached(tiny.llama())
    memory.read(tokenized("a", 50))
    memory.read(tokenized("b", 50, seed=1))
    monkeypatch.setattr("fotmem.memory.reading._run", None)  # nothing is run
    memory.read(tokenized("a", 50))
    monkeypatch.undo()
    assert [each.name for each in memory.documents] == ["a", "b"]
    memory.read(tokenized("a", 50, seed=2))
    assert [(each.name, each.first) for each in memory.documents] == [("b", 50), ("a", 100)]
    assert len(memory) == 100
    [b, _] = memory.documents
    assert (b.tokens, b.characters, b.is_complete) == (50, 100, True)
    assert b.sha256 == tokenized("b", 50, seed=1).document.sha256


def test_of_a_document_without_tokens_nothing_is_found_while_others_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, more = tiny.llama(), torch.zeros(2, 1, 8)
    memory = attached(model)
    with fotmem.using(None):
        plain = answer(model)
    memory.read([], document="empty")
    memory.read(tiny.ids(30), document="a")
    counting = MemoryView.counting

    def growing(*arguments: Any) -> Any:
        memory.store(LAYERS[0]).add(more, more)
        return counting(*arguments)

    monkeypatch.setattr(MemoryView, "counting", growing)
    with memory.only(["empty"]):
        torch.testing.assert_close(answer(model), plain)
    assert memory.store(LAYERS[0]).next_id > 30


def test_characters_are_kept(tmp_path: Path) -> None:
    memory = attached(tiny.llama())
    memory.read(tokenized("a", 30))
    memory.read(tiny.ids(5))
    memory.save(tmp_path / "memory")
    memory.close()
    again = fotmem.open_memory(tmp_path / "memory", tiny.llama())
    rows = again.attached_model.contents.text.rows(0, 35)
    assert rows.starts.tolist() == [*range(0, 60, 2), *[-1] * 5]
    assert rows.stops.tolist() == [*range(2, 62, 2), *[-1] * 5]
    again.close()


def test_only_belongs_to_its_thread() -> None:
    model = tiny.llama()
    memory = attached(model)
    memory.read(tokenized("a", 50))
    memory.read(tokenized("b", 50, seed=1))
    with memory.only("a"):
        alone = answer(model)
        with ThreadPoolExecutor(1) as pool:
            outside = pool.submit(answer, model).result()
    assert torch.equal(outside, answer(model))
    assert not torch.equal(outside, alone)
