"""Several threads and one attached model."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

import fotmem
from fotmem import MemoryStore
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
