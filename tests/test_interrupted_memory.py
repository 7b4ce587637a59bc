"""Ctrl-C at any line of what changes a memory, or attaches it, leaves it whole."""

from collections.abc import Callable

import pytest
import torch

import fotmem
from fotmem import Memory
from tests import tiny
from tests.interrupts import at_every_line
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    one_thread,
)
from tests.traces import assert_untouched, snapshot

FILES = tuple(
    f"fotmem/{name}.py"
    for name in (
        *("memory/memory", "memory/contents", "memory/reading", "memory/attachment"),
        *("memory/attached", "models/replace_forward", "models/model_parts", "interrupts"),
    )
)


def replaced_temporarily(memory: Memory) -> None:
    with memory.temporarily():
        memory.replace(5, 9, tiny.ids(7, seed=1))


def cleared_temporarily(memory: Memory) -> None:
    with memory.temporarily(), memory.temporarily():
        memory.clear()


CHANGES: dict[str, tuple[Callable[[Memory], object], set[int]]] = {
    "read": (lambda memory: memory.read(tiny.ids(30, seed=1)), {20, 36, 50}),
    "replace": (lambda memory: memory.replace(5, 9, tiny.ids(7, seed=1)), {20, 23}),
    "use": (lambda memory: memory.use("zarr"), {20}),
    "clear": (lambda memory: memory.clear(), {0, 20}),
    "replace temporarily": (replaced_temporarily, {20}),
    "clear temporarily": (cleared_temporarily, {20}),
}


each_line = pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.thorough), 5], ids="every {} lines".format
)


@each_line
@pytest.mark.parametrize("name", CHANGES)
def test_ctrl_c_leaves_a_memory_whole(name: str, step: int) -> None:
    change, lengths = CHANGES[name]
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    memory.read(tiny.ids(20))
    before = memory.attached_model.contents.copy()
    change(memory)  # what it imports is not a part of it
    memory.attached_model.contents = kept = before.copy()
    tried = 0
    for ended in at_every_line(lambda: change(memory), FILES, step):
        assert not ended  # Ctrl-C waits, but is never lost
        assert len(memory) in lengths
        stores = [memory.store(layer) for layer in LAYERS]
        assert [len(store) for store in stores] == [len(memory)] * len(stores)
        assert len({type(store) for store in stores}) == 1
        assert model(tiny.ids(9)).logits.isfinite().all()
        if name.endswith("temporarily"):
            assert memory.attached_model.contents is kept
        else:
            memory.attached_model.contents = before.copy()
        tried += 1
    assert tried > 10 / step


@each_line
def test_ctrl_c_leaves_a_model_plain_or_attached(step: int) -> None:
    model = tiny.llama()
    before, question = snapshot(model), tiny.ids(9)
    plain, memories = model(question).logits, []

    def attach() -> None:
        memories.append(fotmem.attach(model, layers=LAYERS))

    for _ in at_every_line(attach, FILES, step):
        assert memories == []
        assert_untouched(model, before)

    def detach() -> None:
        memories[-1].detach()

    for _ in at_every_line(detach, FILES, step):
        assert memories[-1].attached == ("forward" in vars(model.model))
        if not memories[-1].attached:
            assert_untouched(model, before)
            memories.append(fotmem.attach(model, layers=LAYERS))
    assert_untouched(model, before)
    assert torch.equal(model(question).logits, plain)
