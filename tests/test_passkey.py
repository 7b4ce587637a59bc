import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem.measure.evaluate.passkey import measure_passkey, score
from fotmem.measure.evaluate.passkey_trials import Trial, make_trials
from fotmem.measure.reading import LOCAL, OVERLAP
from fotmem.tasks.pass_key import NAME, fact, question, split_answer
from tests import folders
from tests.tiny import one_thread  # noqa: F401 - a fixture

KINDS = ["digits", "numbers", "llama"]


@functools.cache
def tokenizer(kind: str) -> Any:
    return folders.tokenizer(kind)


TEXT = folders.PROSE[:3000]


def bare(kind: str, text: str) -> list[int]:
    return list(tokenizer(kind)(text, add_special_tokens=False).input_ids)


def place(hidden: list[int], read: list[int]) -> int:
    """Where one list lies in another; it must lie there once."""
    size = len(hidden)
    [begin] = [i for i in range(len(read) - size + 1) if read[i : i + size] == hidden]
    return begin


def test_the_words() -> None:
    assert fact(NAME, "48213") == "\nThe pass key is 48213. Remember it. 48213 is the pass key.\n"
    assert question(NAME) == "\nWhat is the pass key? The pass key is"


# The trials


@pytest.mark.parametrize("kind", KINDS)
def test_trials(kind: str) -> None:
    trials = make_trials(tokenizer(kind), TEXT, tokens=150, trials=300, seed=0)
    every, rooms = bare(kind, TEXT), set()
    assert len(trials) == 300
    for trial in trials:
        assert len(trial.read) + len(trial.local) == 150
        assert len(trial.local) == LOCAL
        assert 10_000 <= int(trial.code) <= 99_999
        hidden = bare(kind, fact(NAME, trial.code))
        depth = place(hidden, trial.read)
        filler = trial.read[:depth] + trial.read[depth + len(hidden) :] + trial.local
        place(filler, every)  # one piece of the text, the fact apart
        assert trial.code not in tokenizer(kind).decode(trial.local)
        rooms.add((depth, len(trial.read) - len(hidden)))
    # Any depth, from before everything that is read to behind all of it.
    shares = sorted(depth / room for depth, room in rooms)
    assert (shares[0], shares[-1]) == (0, 1)
    assert 0.4 < sum(shares) / len(shares) < 0.6
    assert len({trial.code for trial in trials}) > 290


def test_the_seed_decides_and_more_trials_begin_with_the_same() -> None:
    make = functools.partial(make_trials, tokenizer("digits"), TEXT, tokens=150)
    assert make(trials=4, seed=7) == make(trials=4, seed=7)
    assert make(trials=9, seed=7)[:4] == make(trials=4, seed=7)
    assert make(trials=4, seed=7) != make(trials=4, seed=8)


@pytest.mark.parametrize("kind", KINDS)
def test_how_short_a_trial_can_be(kind: str) -> None:
    words = len(bare(kind, fact(NAME, "12345")))
    assert len(make_trials(tokenizer(kind), TEXT, tokens=words + LOCAL + 9, trials=1, seed=0)) == 1
    if kind != "numbers":  # where the fact's length depends on the number
        [trial] = make_trials(tokenizer(kind), TEXT, tokens=words + LOCAL + 1, trials=1, seed=0)
        assert len(trial.read) == words + 1
        with pytest.raises(fotmem.errors.InputError) as error:
            make_trials(tokenizer(kind), TEXT, tokens=words + LOCAL, trials=1, seed=0)
        least = words + LOCAL
        assert str(error.value) == (
            f"tokens must be more than {least} (fact, local text), got {least}"
        )


def test_how_long_a_trial_can_be() -> None:
    has, words = len(bare("digits", TEXT)), len(bare("digits", fact(NAME, "12345")))
    make = functools.partial(make_trials, tokenizer("digits"), TEXT, trials=1, seed=0)
    [trial] = make(tokens=has + words)
    assert trial.local == bare("digits", TEXT)[-LOCAL:]
    with pytest.raises(fotmem.errors.InputError) as error:
        make(tokens=has + words + 1)
    assert str(error.value) == (f"the text has {has:,} tokens, {has + 1:,} are needed: add text")


# Question and answer


@pytest.mark.parametrize("kind, digits", [("digits", 5), ("numbers", 4), ("llama", 5)])
def test_the_answer_begins_with_a_digit_and_reads_on_from_the_question(
    kind: str, digits: int
) -> None:
    asked, code = split_answer(tokenizer(kind), question(NAME), "48213")
    assert asked + code == bare(kind, f"{question(NAME)} 48213")
    assert tokenizer(kind).decode(code).strip() == "48213"
    assert len(code) == digits
    before = tokenizer(kind).convert_ids_to_tokens(asked)[-1]
    assert before == {"digits": "Ġ", "numbers": "Ġis", "llama": "▁"}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_is_the_same_tokens_in_fact_and_question(kind: str) -> None:
    asked, code = split_answer(tokenizer(kind), question(NAME), "48213")
    hidden = bare(kind, fact(NAME, "48213"))
    begin = place([asked[-1], *code, *bare(kind, "x.")[-1:]], hidden)
    assert begin > 0


# Scoring


class Parrot:
    """A model that says the same after a prompt if it then sees that or the truth; else, "x"."""

    device = "cpu"

    def __init__(self, prompt: list[int], says: list[int], truth: list[int], other: int) -> None:
        self.prompt, self.says, self.truth, self.other = prompt, says, truth, other

    def next(self, seen: list[int]) -> int:
        for known in (self.truth, self.says):
            for step, token in enumerate(self.says):
                if seen == self.prompt + known[:step]:
                    return token
        return self.other

    def __call__(self, ids: Tensor, logits_to_keep: int) -> SimpleNamespace:
        row = ids[0].tolist()
        guesses = [self.next(row[: end + 1]) for end in range(len(row))][-logits_to_keep:]
        return SimpleNamespace(
            logits=torch.nn.functional.one_hot(torch.tensor([guesses]), folders.VOCABULARY)
        )

    def generate(self, ids: Tensor, *, max_new_tokens: int, **options: Any) -> Tensor:
        assert options["do_sample"] is False
        row = ids[0].tolist()
        for _ in range(max_new_tokens):
            row.append(self.next(row))
        return torch.tensor([row])


def trial(kind: str) -> Trial:
    return Trial(read=bare(kind, "It was."), local=bare(kind, "Then this."), code="48213")


def parrot(kind: str, change: Callable[[list[int]], list[int]]) -> Parrot:
    asked, code = split_answer(tokenizer(kind), question(NAME), "48213")
    other = tokenizer(kind).convert_tokens_to_ids("x")
    return Parrot(trial(kind).local + asked, says=change(code[:]), truth=code, other=other)


def wrong(*places: int) -> Callable[[list[int]], list[int]]:
    return lambda code: [3 if i in places else token for i, token in enumerate(code)]


@pytest.mark.parametrize("kind", KINDS)
def test_all_right(kind: str) -> None:
    assert score(parrot(kind, wrong()), tokenizer(kind), trial(kind), None)[:2] == (1.0, True)


@pytest.mark.parametrize("kind", KINDS)
def test_all_wrong(kind: str) -> None:
    assert score(parrot(kind, wrong(*range(5))), tokenizer(kind), trial(kind), None)[:2] == (
        0,
        False,
    )


@pytest.mark.parametrize("kind", ["digits", "llama"])
@pytest.mark.parametrize("place", range(5))
def test_one_digit_wrong(kind: str, place: int) -> None:
    """The digits after it still count: they are asked with the true ones before them."""
    found = score(parrot(kind, wrong(place)), tokenizer(kind), trial(kind), None)
    assert found[:2] == (0.8, False)


@pytest.mark.parametrize("place, share", [(0, 0.6), (1, 0.8), (3, 0.8)])
def test_a_token_counts_as_many_digits_as_it_has(place: int, share: float) -> None:
    found = score(parrot("numbers", wrong(place)), tokenizer("numbers"), trial("numbers"), None)
    assert found[:2] == (share, False)


def test_exact_match_is_that_of_the_generated_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    known, speechless = parrot("digits", wrong()), parrot("digits", wrong(*range(5)))
    monkeypatch.setattr(known, "generate", speechless.generate)
    assert score(known, tokenizer("digits"), trial("digits"), None)[:2] == (1.0, False)


class Reader:
    options = SimpleNamespace(window=512)

    """A memory that only writes down what is done with it."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def clear(self) -> None:
        self.done.append("clear")

    def read(self, tokens: list[int], *, overlap: int, attend: bool) -> None:
        assert (overlap, attend) == (OVERLAP, False)
        self.done.append(tokens)


def test_each_trial_is_read_into_an_empty_memory() -> None:
    memory: Any = Reader()
    assert score(parrot("digits", wrong()), tokenizer("digits"), trial("digits"), memory)[0] == 1
    assert memory.done == ["clear", trial("digits").read]


# Rows


def test_each_row_covers_the_trials_so_far() -> None:
    known = parrot("digits", wrong())
    other = Trial(trial("digits").read, bare("digits", "Elsewhere."), "48213")
    trials = [trial("digits"), other, trial("digits")]
    rows = list(measure_passkey(known, tokenizer("digits"), trials, None, None))
    assert [row.trials for row in rows] == [1, 2, 3]
    assert [row.digit_accuracy for row in rows] == [1, 0.5, pytest.approx(2 / 3)]
    assert [row.exact_match for row in rows] == [1, 0.5, pytest.approx(2 / 3)]
    assert [row.tokens for row in rows] == [len(one.read) + len(one.local) for one in trials]
    assert {(row.memory, row.store) for row in rows} == {(False, None)}
    assert 0 <= rows[0].seconds <= rows[1].seconds <= rows[2].seconds


def test_with_an_attached_memory() -> None:
    model = folders.model()
    trials = make_trials(tokenizer("digits"), TEXT, tokens=100, trials=2, seed=0)
    with fotmem.attach(model, window=32) as memory:
        rows = list(measure_passkey(model, tokenizer("digits"), trials, memory, "exact"))
        assert memory.tokens.tolist() == trials[-1].read
    assert [(row.memory, row.store, row.tokens) for row in rows] == [(True, "exact", 100)] * 2
