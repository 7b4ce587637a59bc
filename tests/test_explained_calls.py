"""An explanation belongs to a call: several threads and tasks ask one model at once."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

import fotmem
from fotmem import AttendedToken, Memory
from fotmem.errors import AttachError, OptionError
from fotmem.tasks.answer import answer_question
from tests import tiny
from tests.test_answer import tokenizer
from tests.test_threads import together
from tests.tiny import LAYERS, WINDOW, generate, one_thread  # noqa: F401 - a fixture

QUESTIONS = tiny.rows(5, 16, 9, 33, 7, 12, seed=20)
Shown = list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def asked() -> tuple[Any, Memory, list[Shown]]:
    """Return a model, its memory, and what each question attends to when it is asked alone."""
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=3)
    memory.read(tiny.ids(40))
    alone = [ask(model, memory, question) for question in QUESTIONS]
    assert len({tuple(each) for each in alone}) == len(QUESTIONS)
    return model, memory, alone


def ask(model: Any, memory: Memory, question: torch.Tensor) -> Shown:
    generate(model, question, 4)
    return shown(memory.explain())


def shown(found: list[AttendedToken]) -> Shown:
    assert found
    return [entry[:3] for entry in found]


def test_threads_get_the_explanation_of_their_own_call(asked: Any) -> None:
    model, memory, alone = asked
    all_have_asked = threading.Barrier(len(QUESTIONS), timeout=60)
    model(QUESTIONS[0])
    before = memory.explain()

    def task(question: torch.Tensor) -> Callable[[], Shown]:
        def run() -> Shown:
            for _ in range(3):
                found = ask(model, memory, question)
            all_have_asked.wait()
            assert shown(memory.explain()) == found
            return found

        return run

    assert together([task(question) for question in QUESTIONS]) == alone
    assert memory.explain() == before


def test_threads_with_the_same_context_are_kept_apart(asked: Any) -> None:
    model, memory, alone = asked
    with fotmem.using(memory), ThreadPoolExecutor(1) as pool:
        ask(model, memory, QUESTIONS[0])
        copied = contextvars.copy_context()
        assert pool.submit(copied.run, ask, model, memory, QUESTIONS[1]).result() == alone[1]
        assert shown(memory.explain()) == alone[0]
        assert pool.submit(contextvars.copy_context().run, memory.explain).result() == []


@pytest.mark.parametrize("inside", ["task", "thread"])
def test_tasks_get_the_explanation_of_their_own_call(asked: Any, inside: str) -> None:
    model, memory, alone = asked

    async def task(question: torch.Tensor) -> Shown:
        with fotmem.using(memory):
            await asyncio.sleep(0)
            if inside == "thread":
                await asyncio.to_thread(generate, model, question, 4)
            else:
                generate(model, question, 4)
            await asyncio.sleep(0.01)  # the others ask meanwhile
            return shown(memory.explain())

    async def all_at_once() -> list[Shown]:
        model(QUESTIONS[0])
        before = shown(memory.explain())
        found = await asyncio.gather(*map(task, QUESTIONS))
        assert shown(memory.explain()) == before
        return list(found)

    assert asyncio.run(all_at_once()) == alone


def test_answers_of_threads_name_their_own_sources(asked: Any) -> None:
    model, memory, _ = asked

    def answer(question: torch.Tensor) -> list[AttendedToken]:
        prompt: list[int] = question[0].tolist()
        return answer_question(
            model, tokenizer(), prompt, memory=memory, max_new_tokens=4, top=9
        ).sources

    alone = [answer(question) for question in QUESTIONS]
    found = together([partial(answer, question) for question in QUESTIONS])
    for mine, theirs in zip(found, alone, strict=True):
        assert [entry[:3] for entry in mine] == [entry[:3] for entry in theirs]


def test_what_ran_elsewhere_is_explained_by_its_cache(asked: Any) -> None:
    model, memory, _ = asked
    model(QUESTIONS[0])
    here = memory.explain()
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(model, QUESTIONS[1]).result()
    assert memory.explain() == here
    found = memory.explain(cache=there[1])
    model(QUESTIONS[1])
    assert memory.explain() == found != here
    with pytest.raises(OptionError, match="cache must be what a call returned, got 5"):
        memory.explain(cache=5)
    other = tiny.llama()
    with (
        fotmem.attach(other, layers=LAYERS, window=WINDOW) as another,
        pytest.raises(AttachError, match="this cache is of another model"),
    ):
        another.explain(cache=there[1])


def test_each_memory_explains_its_own_share() -> None:
    model = tiny.llama()
    both = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=6)
    first, second = (fotmem.attach(model, default=False, top_k=6) for _ in range(2))
    for memory, texts in ((both, (0, 1)), (first, (0,)), (second, (1,))):
        for seed in texts:
            memory.read(tiny.ids(30, seed=seed))
    model(QUESTIONS[0])
    expected = both.explain(top=1000)
    with fotmem.using([first, second]):
        model(QUESTIONS[0])
    assert both.explain() == []  # not asked in this call
    found = first.explain(top=1000)
    found += [entry._replace(position=entry.position + 30) for entry in second.explain(top=1000)]
    found.sort(key=lambda entry: -entry.weight)
    assert {entry[:3] for entry in found} == {entry[:3] for entry in expected}
    for mine, theirs in zip(found, expected, strict=True):
        assert abs(mine.weight - theirs.weight) <= 1e-5
    with fotmem.using(rows=[first, None, second]):
        model(QUESTIONS[0].repeat(3, 1))
    assert [bool(first.explain(row=row)) for row in range(3)] == [True, False, False]
    assert [bool(second.explain(row=row)) for row in range(3)] == [False, False, True]
    second.read([5])
    assert second.explain(row=2) == []  # changed since
    assert first.explain(row=0)
