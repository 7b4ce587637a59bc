"""A changed text: the old one is there until the new one is whole, whatever stops the reading."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.memory import reading, saving
from tests import tiny
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

OLD, NEW, OTHER = tiny.ids(70), tiny.ids(90, seed=1), tiny.ids(30, seed=2)
STOPPED = 48
"""Tokens of the new text that are committed when its reading is stopped."""
STORES = [
    *("exact", "zarr"),
    *(pytest.param(each, marks=pytest.mark.thorough) for each in ("hnsw", "faiss-ivf", "clusters")),
]


@pytest.fixture(autouse=True)
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "COMMIT", 3 * WINDOW)


def attached(model: Any) -> fotmem.Memory:
    return fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=4)


def answer(model: Any) -> Tensor:
    logits: Tensor = model(tiny.ids(9, seed=5)).logits
    return logits


def read(memory: fotmem.Memory, ids: Tensor = NEW, name: str = "a", **how: Any) -> None:
    memory.read(ids, document=name, **how)


def begun(path: Path, model: Any) -> fotmem.Memory:
    """Begin a memory of two documents."""
    memory = attached(model)
    read(memory, OLD)
    read(memory, OTHER, "b")
    memory.save(path)
    return memory


def stop(memory: fotmem.Memory, ids: Tensor = NEW, tokens: int = STOPPED) -> None:
    """Begin to read another text under the name of the first, and stop."""
    run, ends = reading._run, len(memory.tokens) + tokens

    def stopping(*arguments: Any) -> Any:
        if len(memory.tokens) >= ends:
            raise KeyboardInterrupt
        return run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_run", stopping)
        with pytest.raises(KeyboardInterrupt):
            read(memory, ids)


def stopped(path: Path, model: Any) -> None:
    """Leave a memory whose first document is being replaced."""
    memory = begun(path, model)
    stop(memory)
    memory.close()


def assert_shows(path: Path, a: Tensor, store: str = "exact") -> None:
    """Expect the last commit of a directory to be a memory of two documents."""
    model = tiny.llama()
    with attached(model) as expected:
        for name, ids in (("b", OTHER), ("a", a)):
            read(expected, ids, name)
        right = answer(model)
    with fotmem.open_memory(path, model, store) as memory:
        shown = {each.name: each.tokens for each in memory.documents}
        assert shown == {"a": a.shape[1], "b": 30}
        assert all(each.is_complete for each in memory.documents)
        assert len(memory) == memory.stats().tokens == a.shape[1] + 30
        torch.testing.assert_close(answer(model), right)
        with memory.only(["b"]):
            alone = answer(model)
        with memory.only(["a", "b"]):
            torch.testing.assert_close(answer(model), right)
        assert not torch.equal(alone, right)
    assert verify(path).damages == ()


@pytest.mark.parametrize("store", STORES)
def test_the_old_text_is_there_until_the_new_one_is_whole(tmp_path: Path, store: str) -> None:
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    path, model = tmp_path / "memory", tiny.llama()
    writer = begun(path, model)
    reader = fotmem.open_memory(path, tiny.llama(), store)
    before = answer(reader.attached_model.parts.model)
    stop(writer)
    assert reader.refresh()
    assert len(reader.tokens) == 100 + STOPPED
    assert [each.sha256 for each in reader.documents] == [e.sha256 for e in writer.documents]
    torch.testing.assert_close(answer(reader.attached_model.parts.model), before)
    assert_shows(path, OLD, store)
    read(writer)
    assert reader.refresh()
    assert len(reader.tokens) == 190  # it went on with what it had
    assert_shows(path, NEW, store)
    assert not torch.equal(answer(reader.attached_model.parts.model), before)
    writer.close()
    reader.close()


def test_the_documents_of_a_block_are_named_not_numbered(tmp_path: Path) -> None:
    path, model = tmp_path / "memory", tiny.llama()
    writer = begun(path, tiny.llama())
    reader = fotmem.open_memory(path, model)
    with reader.only(["a"]), fotmem.using(reader):
        before = answer(model)
        read(writer)
        assert torch.equal(answer(model), before)
        reader.refresh()
        after = answer(model)
    alone = attached(tiny.llama())
    read(alone)
    torch.testing.assert_close(after, answer(alone.attached_model.parts.model))
    writer.close()
    reader.close()


def test_reading_on_gives_what_an_uninterrupted_reading_gives(tmp_path: Path) -> None:
    model, whole = tiny.llama(), tiny.llama()
    stopped(tmp_path / "memory", model)
    memory = fotmem.open_memory(tmp_path / "memory", model, writable=True)
    read(memory)
    uninterrupted = begun(tmp_path / "whole", whole)
    read(uninterrupted)
    assert torch.equal(memory.tokens, uninterrupted.tokens)
    for layer in LAYERS:
        for mine, right in zip(
            tiny.contents(memory.store(layer)),
            tiny.contents(uninterrupted.store(layer)),
            strict=True,
        ):
            assert torch.equal(mine, right)
    memory.close()
    uninterrupted.close()


@pytest.mark.parametrize("kept", [True, False])
def test_a_memory_that_reads_on_need_not_be_opened_again(tmp_path: Path, kept: bool) -> None:
    model = tiny.llama()
    memory = begun(tmp_path / "memory", model) if kept else attached(model)
    if not kept:
        read(memory, OLD)
        read(memory, OTHER, "b")
    before = answer(model)
    stop(memory)
    torch.testing.assert_close(answer(model), before)
    stop(memory, tokens=WINDOW)
    read(memory)
    assert [(each.name, each.first) for each in memory.documents] == [("b", 70), ("a", 100)]
    if kept:
        assert_shows(tmp_path / "memory", NEW)
        memory.close()


def test_what_is_read_with_memory_sees_itself_and_not_the_old_text() -> None:
    alone, memory = attached(tiny.llama()), attached(tiny.llama())
    read(memory, OLD)
    for each in (alone, memory):
        read(each, OTHER, "b")
        read(each, NEW, attend=True)
    for layer in LAYERS:
        keys = tiny.contents(memory.store(layer))[0]
        torch.testing.assert_close(keys[:, 70:], tiny.contents(alone.store(layer))[0])


def remove(path: Path, memory: fotmem.Memory) -> None:
    memory.remove("a")
    memory.close()
    assert compact(path).dropped_tokens == 70 + STOPPED
    with fotmem.open_memory(path, tiny.llama(), writable=True) as again:
        assert [each.name for each in again.documents] == ["b"]
        read(again)
        again.close()


def read_another(path: Path, memory: fotmem.Memory) -> None:
    read(memory, tiny.ids(20, seed=7), "c")
    memory.remove("c")
    read(memory)
    memory.close()
    assert compact(path).dropped_tokens == 70 + STOPPED + 20


def read_a_third_text(path: Path, memory: fotmem.Memory) -> None:
    stop(memory, tiny.ids(60, seed=8))
    stop(memory, tiny.ids(60, seed=9), tokens=16)
    read(memory)
    memory.close()
    assert compact(path).dropped_tokens == 70 + STOPPED + 48 + 16


def compact_first(path: Path, memory: fotmem.Memory) -> None:
    memory.remove("b")
    memory.close()
    assert compact(path).dropped_tokens == 30
    with fotmem.open_memory(path, tiny.llama(), writable=True) as again:
        assert len(again.tokens) == 70 + STOPPED
        read(again)
        assert len(again.tokens) == 70 + 90
        read(again, OTHER, "b")
        again.close()


def repair_first(path: Path, memory: fotmem.Memory) -> None:
    memory.close()
    damage(path, 70 + 30)
    assert [(each.name, each.first) for each in repair(path).lost] == [("a", 100)]
    assert_shows(path, OLD)
    with fotmem.open_memory(path, tiny.llama(), writable=True) as again:
        read(again)
        assert len(again.tokens) == 100 + STOPPED + 90
        again.close()


def damage(path: Path, token: int) -> None:
    """Damage the chunk of a token of the last document."""
    piece = MemoryDirectory.open(path).manifest.layers[0].pieces[-1]
    assert token <= piece.first
    file = next((path / f"layers/{LAYERS[0]:02d}/{piece.name}/keys").rglob("c.*"))
    file.write_bytes(b"x" + file.read_bytes()[1:])


@pytest.mark.parametrize(
    "change",
    [
        *(compact_first, repair_first),
        *(pytest.param(each, marks=pytest.mark.thorough) for each in (remove, read_another)),
        pytest.param(read_a_third_text, marks=pytest.mark.thorough),
    ],
)
def test_a_change_before_the_new_text_is_whole(
    tmp_path: Path, change: Callable[[Path, fotmem.Memory], None]
) -> None:
    path, model = tmp_path / "memory", tiny.llama()
    stopped(path, model)
    change(path, fotmem.open_memory(path, model, writable=True))
    assert_shows(path, NEW)
    compact(path)
    assert_shows(path, NEW)


def test_a_replacement_that_is_cut_is_no_longer_one() -> None:
    memory = attached(tiny.llama())
    read(memory, OLD)
    stop(memory)
    memory.replace(80, 85, tiny.ids(7, seed=3))
    assert [(each.name, each.first) for each in memory.documents] == [("a", 0), ("", 80)]
    read(memory)
    assert len(memory) == 90 + 7
