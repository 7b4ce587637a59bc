"""The facts evaluation: many facts are hidden in one text, and each is asked for by its key."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from statistics import fmean
from typing import Any

from fotmem.errors import InputError
from fotmem.measure.evaluate.alternatives.run import Answers
from fotmem.measure.evaluate.intervals import wilson
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids
from fotmem.tasks.facts import QUESTIONS, STATEMENTS, Fact, Facts

OTHER_STATEMENTS = (
    "You should know that {key} happens to be {answer}.",
    "On the wall somebody had written {key}, and it said {answer}.",
    "When they ask you for {key}, say {answer}.",
    "The clerk looked up {key} and read out {answer}.",
    "It is no secret: {key} amounts to {answer}.",
    "Let me repeat {key} for you, that was {answer}.",
    "Concerning {key}, the only entry in the book is {answer}.",
    "The label for {key} shows {answer}.",
    "We checked {key} twice and got {answer} both times.",
    "Her diary mentions {key} once, with the value {answer}.",
)
OTHER_QUESTIONS = (
    "Who has {key}? They say it is",
    "I forgot {key}, but now I know it again:",
    "Could someone look up {key}? The book says",
    "Before we close, {key} once more, please:",
    "He did not know {key}, but his sister did. She answered",
    "The form has a field for {key}. We enter",
    "How does the record for {key} read? It reads",
    "For the minutes, {key} stands at",
    "My memory of {key} is clear:",
    "The host of the quiz asks for {key}. The right reply is",
)
"""Wordings that training does not use."""
DIGITS = (3, 4, 5, 6, 7, 8, 9)
"""Lengths of the numbers; training uses 3 to 7."""


@dataclass(frozen=True)
class FactQuestion:
    """A fact, its statement in the text, and the question for it."""

    fact: Fact
    statement: str
    question: str
    other_wording: bool


@dataclass(frozen=True)
class FactsRow:
    """The results of one kind of fact."""

    kind: str
    """"trained wording", "other wording", a number of digits, or "all"."""
    tokens: int
    memory: bool
    store: str | None
    exact_match: float
    exact_match_interval: tuple[float, float]
    facts: int
    seconds: float


def make_facts(number: int, seed: int) -> list[FactQuestion]:
    """Invent facts about numbers; every second one uses other words than those of the training."""
    draw = random.Random(f"keyed {seed}")
    facts = Facts(seed + 10**6, DIGITS)
    numbered = (fact for i in count() if (fact := facts[i]).answer.isdigit())
    made = []
    for place, fact in enumerate(islice(_without_contradictions(numbered), number)):
        other = place % 2 == 1
        statement = draw.choice(OTHER_STATEMENTS if other else STATEMENTS)
        question = draw.choice(OTHER_QUESTIONS if other else QUESTIONS)
        made.append(FactQuestion(fact, fact.say(statement), fact.say(question), other))
    return made


def _without_contradictions(facts: Iterable[Fact]) -> Iterator[Fact]:
    """Leave out what says another number of the same thing, such as a locker code of Nora."""
    known = set()
    for fact in facts:
        about = frozenset(fact.key.replace("'s ", " ").split()) - {"the", "of"}
        if about not in known:
            known.add(about)
            yield fact


def hide(
    tokenizer: Any, ids: list[int], facts: list[FactQuestion], *, tokens: int, seed: int
) -> list[int]:
    """Hide facts at random depths of a piece of text; `tokens` in all.

    Raises
    ------
    InputError
        The text is too short, or `tokens` has no room for all facts.
    """
    draw = random.Random(f"hide {seed}")
    hidden = [token_ids(tokenizer, f" {one.statement}") for one in facts]
    filler = tokens - sum(map(len, hidden))
    if filler < LOCAL:
        raise InputError(
            f"{len(facts)} facts take more than {tokens:,} tokens: hide fewer, or take more tokens"
        )
    if len(ids) < filler:
        raise InputError(f"the text has {len(ids):,} tokens, {filler:,} are needed: add text")
    start = draw.randrange(len(ids) - filler + 1)
    piece = ids[start : start + filler]
    places = sorted((draw.randrange(filler - LOCAL + 1) for _ in facts), reverse=True)
    draw.shuffle(hidden)
    for place, fact in zip(places, hidden, strict=True):
        piece[place:place] = fact
    return piece


def facts_rows(
    facts: Sequence[FactQuestion], answers: Answers, *, tokens: int, store: str | None
) -> list[FactsRow]:
    """Count the right answers of each kind of fact; `store` None: without memory."""
    right: dict[str, list[float]] = {}
    for one, score in zip(facts, answers.scores, strict=True):
        wording = "other wording" if one.other_wording else "trained wording"
        for kind in ("all", wording, f"{len(one.fact.answer)} digits"):
            right.setdefault(kind, []).append(score)
    return [
        FactsRow(
            kind=kind,
            tokens=tokens,
            memory=store is not None,
            store=store,
            exact_match=fmean(scores),
            exact_match_interval=wilson(sum(scores), len(scores)),
            facts=len(scores),
            seconds=answers.seconds,
        )
        for kind, scores in sorted(right.items())
    ]
