"""Several threads and one attached model."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import Memory
from fotmem.stores import MemoryStore
from fotmem_exact.store import ExactStore
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    generate,
    one_thread,
)

THREADS = 4


def together(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run all tasks at once, each in a thread of its own."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


def test_answers_equal_answers_alone() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        questions = tiny.rows(5, 16, 40, 61, 9, 33)
        tasks: list[Callable[[], Tensor]] = []
        for question in questions:
            tasks.append(lambda question=question: model(question).logits)
            tasks.append(lambda question=question: generate(model, question, 20))
        tasks.append(lambda: model(questions[3], output_hidden_states=True).hidden_states[2])
        alone = [task() for task in tasks]
        explained = []
        for question in questions:
            model(question)
            explained.append(memory.explain())
        for _ in range(3):
            for actual, expected in zip(together(tasks), alone, strict=True):
                assert torch.equal(actual, expected)
        together([lambda question=question: model(question) for question in questions])
        assert memory.explain() in explained  # of one of the calls, never of a mixture
        assert len(memory) == 40


def test_reads_wait_for_each_other() -> None:
    texts = tiny.rows(40, 33, 50, 16)
    with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW) as memory:
        together([lambda text=text: memory.read(text) for text in texts])
        left, order = memory.tokens.tolist(), []
        while left:  # whole texts, one after the other
            (text,) = [text for text in texts if left[: text.shape[1]] == text[0].tolist()]
            order.append(text)
            left = left[text.shape[1] :]
        with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW) as other:
            for text in order:
                other.read(text)
            for layer in LAYERS:
                for mine, theirs in zip(
                    tiny.contents(memory.store(layer)),
                    tiny.contents(other.store(layer)),
                    strict=True,
                ):
                    assert torch.equal(mine, theirs)


def test_answering_while_another_thread_reads() -> None:
    model = tiny.llama()
    with fotmem.attach(model, layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(20))

        def ask() -> bool:
            return all(bool(model(tiny.ids(40)).logits.isfinite().all()) for _ in range(10))

        tasks: list[Callable[[], Any]] = [ask] * 3
        done = together([*tasks, lambda: memory.read(tiny.ids(200, seed=1))])
        assert done[:3] == [True] * 3
        assert len(memory) == len(memory.store(1)) == len(memory.store(3)) == 220
        fresh = tiny.llama()
        other = fotmem.attach(fresh, layers=LAYERS, window=WINDOW)
        other.read(tiny.ids(20))
        other.read(tiny.ids(200, seed=1))
        assert torch.equal(model(tiny.ids(40)).logits, fresh(tiny.ids(40)).logits)


def test_clearing_waits_for_a_read(monkeypatch: Any) -> None:
    begun, add = threading.Event(), ExactStore.add

    def slow(store: MemoryStore, keys: Tensor, values: Tensor) -> None:
        begun.set()
        add(store, keys, values)

    with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW) as memory:
        monkeypatch.setattr(ExactStore, "add", slow)
        reader = threading.Thread(target=memory.read, args=(tiny.ids(200),))
        reader.start()
        begun.wait()
        memory.clear()
        reader.join()
        assert len(memory) == len(memory.store(1)) == len(memory.store(3)) == 0


CHANGES: dict[str, tuple[Callable[[Memory], object], list[int]]] = {
    "read": (lambda memory: memory.read(tiny.ids(9, seed=2)), [40, 9]),
    "clear": (lambda memory: memory.clear(), []),
    "use": (lambda memory: memory.use("zarr"), [40]),
    "replace": (lambda memory: memory.replace(40, 40, tiny.ids(9, seed=2)), [40, 9]),
    "temporarily": (lambda memory: memory.temporarily().__enter__(), [40]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_other_threads_wait_for_the_end_of_temporarily(name: str) -> None:
    change, expected = CHANGES[name]
    with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW) as memory:
        memory.read(tiny.ids(40))
        begun = threading.Event()

        def other() -> None:
            begun.set()
            change(memory)
            changed.set()

        thread, changed = threading.Thread(target=other), threading.Event()
        with memory.temporarily():
            memory.read(tiny.ids(20, seed=1))
            thread.start()
            begun.wait()
            assert not changed.wait(0.1)
            with memory.temporarily():  # of the same thread
                memory.read(tiny.ids(5, seed=3))
            assert len(memory) == 60
        thread.join()
        pieces = [tiny.ids(count, seed=seed) for count, seed in zip(expected, (0, 2), strict=False)]
        assert memory.tokens.tolist() == [int(token) for piece in pieces for token in piece[0]]
        assert [len(memory.store(layer)) for layer in LAYERS] == [sum(expected)] * 2
        assert type(memory.store(1)).__name__ == ("ZarrStore" if name == "use" else "ExactStore")


@pytest.mark.parametrize("change", ["clear", "use", "replace", "temporarily"])
def test_an_answer_keeps_the_memory_that_it_began_with(change: str) -> None:
    """Its layers look at one memory, whose stores stay open."""
    model, question = tiny.llama(), tiny.ids(9, seed=1)
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, store="zarr")
    memory.read(tiny.ids(40))
    expected = model(question).logits
    changed: list[object] = []

    def change_in_between(*_: object) -> None:
        hook.remove()
        block = memory.temporarily()
        block.__enter__()
        if change == "replace":
            memory.replace(3, 30, [5])
        elif change == "use":
            memory.use("exact")
        elif change == "clear":
            memory.clear()
        block.__exit__(None, None, None)
        if change != "temporarily":
            memory.clear()
        changed.append(change)

    with ThreadPoolExecutor(1) as pool:
        hook = model.model.layers[2].register_forward_hook(
            lambda *_: pool.submit(change_in_between).result()
        )
        assert torch.equal(model(question).logits, expected)
    assert changed == [change]
    assert bool(memory.explain()) == (change == "temporarily")  # else what it saw is gone
    assert len(memory) == (40 if change == "temporarily" else 0)
