"""What happens to a memory when something fails or is interrupted in between."""

import os
import signal
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import Memory
from fotmem_exact.store import ExactStore
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    contents,
    one_thread,
)


def attached() -> Memory:
    return fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW)


def snapshot(memory: Memory) -> list[Tensor]:
    stored = [tensor for layer in LAYERS for tensor in contents(memory.store(layer))]
    return [memory.tokens, *stored]


def assert_equal(one: list[Tensor], other: list[Tensor]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine, theirs)


def fail_before(add: Callable[..., None], store: ExactStore, *pieces: Tensor) -> None:
    raise OSError("disk full")


def fail_after(add: Callable[..., None], store: ExactStore, *pieces: Tensor) -> None:
    add(store, *pieces)
    raise OSError("disk full")


def interrupt(add: Callable[..., None], store: ExactStore, *pieces: Tensor) -> None:
    raise KeyboardInterrupt


def signalled(add: Callable[..., None], store: ExactStore, *pieces: Tensor) -> None:
    signal.raise_signal(signal.SIGINT)
    add(store, *pieces)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "how, error, kept",
    [
        (fail_before, OSError, 36),
        (fail_after, OSError, 36),
        (interrupt, KeyboardInterrupt, 36),
        (signalled, KeyboardInterrupt, 52),  # waits until all layers have the window
    ],
)
def test_a_failing_add_keeps_all_layers_at_one_length(
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[..., None],
    error: type[BaseException],
    kept: int,
    layer: int,
) -> None:
    """Two windows are committed; the next one breaks in one of the layers."""
    memory = attached()
    memory.read(tiny.ids(20))
    broken, add, left = memory.store(layer), ExactStore.add_rows, [1]

    def maybe(store: ExactStore, *pieces: Tensor) -> None:
        if store is not broken or left[0]:
            left[0] -= store is broken
            add(store, *pieces)
        else:
            how(add, store, *pieces)

    text = tiny.ids(60, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(ExactStore, "add_rows", maybe)
        with pytest.raises(error):
            memory.read(text)
    assert len(memory) == kept
    other = attached()
    other.read(tiny.ids(20))
    other.read(text[:, : kept - 20])
    assert_equal(snapshot(memory), snapshot(other))
    for each in (memory, other):
        each.read(text[:, kept - 20 :])
    assert_equal(snapshot(memory), snapshot(other))


def test_an_error_in_the_model_drops_the_window() -> None:
    memory, calls = attached(), []

    def fail(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt

    memory.attached_model.attention(3).register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        memory.read(tiny.ids(60))
    assert len(memory) == len(memory.store(1)) == len(memory.store(3)) == 32


def test_ctrl_c_keeps_what_was_committed() -> None:
    memory, begun = attached(), threading.Event()
    memory.read(tiny.ids(16))

    def press() -> None:
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    def read_for_ever() -> None:
        while True:
            memory.read(tiny.ids(64))
            begun.set()

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        read_for_ever()
    pressing.join()
    committed = len(memory)
    assert committed > 16
    for layer in memory.layers:
        store = memory.store(layer)
        assert len(store) == store.next_id == committed
    memory.read(tiny.ids(16))
    assert len(memory) == committed + 16
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_store_that_cannot_be_made_leaves_the_memory_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = attached()
    memory.read(tiny.ids(20))
    before = snapshot(memory)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ExactStore, "__init__", fail)
    with pytest.raises(OSError, match="no space left"):
        memory.clear()
    assert_equal(snapshot(memory), before)
