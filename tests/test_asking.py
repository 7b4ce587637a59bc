"""Asking a memory: with passages that are read again, or with attention."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fotmem
from fotmem.tasks.answer import answer_question
from fotmem.tasks.asking import answer_from, rereading
from tests import tiny
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - `one_thread` is a fixture

LOCAL, QUESTION = [5, 6, 7], [8, 9, 10, 11]
TOKENIZER: Any = SimpleNamespace(
    pad_token_id=0,
    eos_token_id=None,
    all_special_ids=[],
    decode=lambda ids, **_: " ".join(map(str, ids)),
)


@pytest.fixture
def read() -> Any:
    """A model with a memory that has read a text, and the same model without."""
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=8)
    memory.read(tiny.ids(200))
    return model, memory, tiny.llama()


def test_the_model_sees_nothing_but_the_passages_and_the_prompt(read: Any) -> None:
    model, memory, plain = read
    with rereading(memory, LOCAL, QUESTION, passages=2, max_new_tokens=4) as prompt:
        given, found = memory.reread(
            [*LOCAL, *QUESTION], passages=2, asking=len(QUESTION), max_new_tokens=4
        )
        assert len(prompt) + 4 <= WINDOW
        assert prompt == given[0].tolist()
        assert prompt[-7:] == [*LOCAL, *QUESTION]
        assert len(found) == 2
        ids = torch.tensor([prompt])
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert not torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-4)


def test_without_passages_the_model_attends_to_memory(read: Any) -> None:
    model, memory, plain = read
    for given, passages in ((memory, 0), (None, 3)):
        with rereading(given, LOCAL, QUESTION, passages=passages, max_new_tokens=4) as prompt:
            assert prompt == [*LOCAL, *QUESTION]
            ids = torch.tensor([prompt])
            assert not torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-4)


def test_what_finds_nothing_is_not_asked_without_memory() -> None:
    """The window has no room for a passage."""
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW)
    memory.read(tiny.ids(200))
    long = list(range(3, 3 + WINDOW))
    with rereading(memory, [], long, passages=3, max_new_tokens=4) as prompt:
        assert prompt == long
        ids = torch.tensor([long])
        assert not torch.allclose(model(ids).logits, tiny.llama()(ids).logits, atol=1e-4)


@pytest.mark.parametrize(("passages", "new"), [(0, 3), (2, 3), (WINDOW, 3), (2, WINDOW)])
def test_an_answer_comes_with_its_sources(
    passages: int, new: int, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, memory, plain = read
    template = {"Who?": [3, 4, *QUESTION, 12], "": [3, 4, 12]}
    monkeypatch.setattr("fotmem.tasks.asking.question_prompt", lambda _, asked: template[asked])
    said, sources = answer_from(
        memory, model, TOKENIZER, "Who?", passages=passages, max_new_tokens=new
    )
    prompt = template["Who?"]
    again = memory.reread(prompt, passages=passages, asking=5, max_new_tokens=new)
    assert bool(again.passages) == (passages > 0 and new < WINDOW)
    if again.passages:
        given = again.input_ids[0].tolist()
        expected = answer_question(plain, TOKENIZER, given, max_new_tokens=new)
        assert [(each.tokens, each.weight) for each in sources] == [
            ((start, stop), weight) for start, stop, weight in again.passages
        ]
    else:  # none are wanted, or the window has no room for any
        expected = answer_question(model, TOKENIZER, prompt, memory=memory, max_new_tokens=new)
        attended = {each.position for each in expected.sources}
        assert all(any(a <= at < b for a, b in [s.tokens for s in sources]) for at in attended)
    assert said == expected.text
