import functools
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import fotmem
from fotmem.tasks.answer import answer_question, first_choices, question_prompt
from tests import folders
from tests.tiny import one_thread  # noqa: F401 - a fixture


@functools.cache
def tokenizer(kind: str = "digits") -> Any:
    return folders.tokenizer(kind)


BOOK = tokenizer()(folders.PROSE[:500]).input_ids
PROMPT = tokenizer()("Who is the captain?").input_ids


@pytest.fixture(scope="module")
def model() -> Any:
    return folders.model()


@pytest.fixture
def memory(model: Any) -> Iterator[fotmem.Memory]:
    with fotmem.attach(model, window=32, top_k=8) as memory:
        memory.read(BOOK)
        yield memory


def greedy(model: Any, prompt: list[int], count: int) -> Iterator[list[int]]:
    """Generate token by token without a cache; yield what was generated after each step."""
    said: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            said.append(int(model(torch.tensor([prompt + said])).logits[0, -1].argmax()))
        yield said


# Answering


def test_an_answer_without_memory_has_no_sources(model: Any) -> None:
    *_, said = greedy(model, PROMPT, 6)
    given = answer_question(model, tokenizer(), PROMPT, max_new_tokens=6)
    assert given.text == tokenizer().decode(said).strip() != ""
    assert given.sources == []


def test_an_answer_with_memory(model: Any, memory: fotmem.Memory) -> None:
    *_, said = greedy(model, PROMPT, 6)
    given = answer_question(model, tokenizer(), PROMPT, memory=memory, max_new_tokens=6)
    assert given.text == tokenizer().decode(said).strip()
    assert (
        given.text != answer_question(model, tokenizer(), PROMPT, max_new_tokens=6).text
        or given.sources
    )
    assert len(memory) == len(BOOK)


def test_sources_are_the_best_over_layers_and_answer_tokens(
    model: Any, memory: fotmem.Memory
) -> None:
    best: dict[int, fotmem.AttendedToken] = {}
    for _ in greedy(model, PROMPT, 4):
        for found in memory.explain(tokenizer(), top=1000):
            if found.position not in best or best[found.position].weight < found.weight:
                best[found.position] = found
    expected = sorted(best.values(), key=lambda found: -found.weight)

    given = answer_question(model, tokenizer(), PROMPT, memory=memory, max_new_tokens=4, top=6)
    assert len(given.sources) == 6
    for source, wanted in zip(given.sources, expected, strict=False):
        assert source[:3] == wanted[:3]
        assert source.weight == pytest.approx(wanted.weight, rel=1e-4)
        assert source.token_id == BOOK[source.position]
        assert source.text == tokenizer().decode([source.token_id])
        assert source.layer in memory.layers
    assert len({source.layer for source in expected}) == 2


def test_an_answer_ends_with_the_end_token(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, said = greedy(model, PROMPT, 6)
    end = said[2]
    monkeypatch.setattr(model.generation_config, "eos_token_id", end)
    given = answer_question(model, tokenizer(), PROMPT, max_new_tokens=6)
    assert given.text == tokenizer().decode(said[: said.index(end) + 1]).strip()


def test_an_answer_ends_where_it_suffices(model: Any) -> None:
    *_, said = greedy(model, PROMPT, 6)
    texts = [tokenizer().decode(said[: count + 1]) for count in range(6)]
    asked: list[str] = []

    def suffices(text: str) -> bool:
        asked.append(text)
        return bool(text == texts[2])

    given = answer_question(model, tokenizer(), PROMPT, max_new_tokens=6, until=suffices)
    assert given.text == texts[2].strip()
    assert asked == texts[:3]


def test_special_tokens_are_left_out(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    special = torch.tensor([[*PROMPT, *tokenizer()("<s> yes").input_ids, 2]])
    monkeypatch.setattr(model, "generate", lambda ids, **options: special)
    assert answer_question(model, tokenizer(), PROMPT).text == "yes"


def test_nothing_is_sampled(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    torch.manual_seed(0)
    first = answer_question(model, tokenizer(), PROMPT, max_new_tokens=8)
    assert all(
        answer_question(model, tokenizer(), PROMPT, max_new_tokens=8) == first for _ in range(3)
    )


def test_every_token_after_the_first_is_timed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, slow = model.forward, [0.0, 0.02, 0.0, 0.08, 0.0, 0.0]
    calls = iter(slow)

    def slowed(*arguments: Any, **named: Any) -> Any:
        time.sleep(next(calls))
        return forward(*arguments, **named)

    monkeypatch.setattr(model, "forward", slowed)
    steps = answer_question(model, tokenizer(), PROMPT, max_new_tokens=6).step_seconds
    assert len(steps) == 5
    assert all(step >= asleep for step, asleep in zip(steps, slow[1:], strict=True))


# First choices


def test_first_choices(model: Any) -> None:
    truth = tokenizer()(" The captain is 48213.").input_ids
    with torch.no_grad():
        guesses = model(torch.tensor([PROMPT + truth])).logits[0].argmax(-1).tolist()
    guesses = guesses[len(PROMPT) - 1 : -1]
    truth[2:4] = guesses[2:4]  # the others are wrong, and what follows may change
    with torch.no_grad():
        guesses = model(torch.tensor([PROMPT + truth])).logits[0].argmax(-1).tolist()
    expected = [a == b for a, b in zip(guesses[len(PROMPT) - 1 : -1], truth, strict=True)]
    assert first_choices(model, PROMPT, truth) == expected
    assert expected[2]
    assert not all(expected)


def test_greedy_generation_is_all_first_choices(model: Any) -> None:
    *_, said = greedy(model, PROMPT, 5)
    assert first_choices(model, PROMPT, said) == [True] * 5
    assert first_choices(model, PROMPT, [*said[:4], (said[4] + 1) % 400]) == [True] * 4 + [False]


# Prompts


def test_a_prompt_by_chat_template() -> None:
    chatty = folders.tokenizer(chat_template=folders.CHAT)
    ids = question_prompt(chatty, "Who is it?")
    assert chatty.decode(ids) == "<s>user:Who is it?</s>assistant:"
    assert all(type(token) is int for token in ids)


def test_a_prompt_without_chat_template() -> None:
    assert tokenizer().decode(question_prompt(tokenizer(), "Who is it?")) == (
        "Question: Who is it?\nAnswer:"
    )
    llama = question_prompt(tokenizer("llama"), "Who is it?")
    assert llama[0] == tokenizer("llama").bos_token_id
