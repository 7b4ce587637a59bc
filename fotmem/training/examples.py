"""Examples to train on: windows of documents, with facts in some and questions in later ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fotmem.errors import OptionError
from fotmem.models.tokens import token_ids
from fotmem.tasks.facts import (
    MORE_QUESTIONS,
    MORE_STATEMENTS,
    QUESTIONS,
    QUESTIONS_OF_SEVERAL,
    STATEMENTS,
    Fact,
    Facts,
    ask_for,
)
from fotmem.tasks.numbers import number
from fotmem.tasks.quotations import Quotation, make_quotation
from fotmem.tasks.sentence_questions import make_question
from fotmem.training.options import OLDEST

TOKENS_PER_FACT = (64, 96, 128)
"""Tokens of an example for each fact in it; one of these for each example."""
FACTS_AT_ONCE = (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4)
"""How many facts a question asks for; one of these for each question."""
TOKENS_PER_QUOTATION = (128, 256)
"""The same for questions about sentences."""
TOKENS_PER_NUMBER = (24, 48, 96)
TRIES = 20
"""How often a piece of text is drawn again that overlaps another one of its batch."""
Maker = Callable[[str, random.Random], Quotation | None]
"""Makes a question about a text, if it can."""


class Examples(Dataset[dict[str, Tensor]]):
    """Consecutive windows of documents, some with questions about windows before.

    Each example depends only on its index and the seed, so that training resumes exactly. Those of
    a batch are negatives of each other: they are different pieces of text, as far as there is text.

    Parameters
    ----------
    runs : list of Tensor
        Token ids ``[n]`` of documents, each of at least two windows. A document that is four times
        as long is drawn twice as often: texts differ more than the parts of a text.
    tokenizer : transformers tokenizer
    window : int
        Tokens per window ``T``.
    windows : int
        Windows per example ``P``, at least two; of a shorter document, as many as it has.
    facts : float
        Share of examples with invented facts, from 0 to 1. A fact stands at a random place of one
        window, and a later one asks for it, or for several facts of different windows at once.
    quotations : float
        Share of examples that ask for quotations from windows before, from 0 to 1.
    numbers : float
        Share of examples with numbers at random places of their text, from 0 to 1.
    questions : float
        Share of examples that ask what sentences of windows before say, from 0 to 1.
    batch : int
        Number of consecutive examples in a batch.
    size : int
        Number of examples.
    seed : int
        Seed of everything random.
    """

    def __init__(
        self,
        runs: list[Tensor],
        tokenizer: Any,
        *,
        window: int,
        windows: int,
        facts: float,
        quotations: float,
        numbers: float,
        questions: float,
        batch: int,
        size: int,
        seed: int,
    ) -> None:
        if facts and window * windows < TOKENS_PER_FACT[0]:
            raise OptionError(
                f"window must be at least {-(-TOKENS_PER_FACT[0] // windows)} to hold facts, got "
                f"{window}: choose a larger one, or facts=0"
            )
        self._runs, self._tokenizer = runs, tokenizer
        self._window, self._windows = window, windows
        self._facts_share, self._quotations, self._numbers = facts, quotations, numbers
        self._questions, self._batch = questions, batch
        self._size, self._seed = size, seed
        self._facts = Facts(seed)
        self._weights = [math.sqrt(len(run)) for run in runs]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``windows [P, T]``, ``answers [P, T]``, True where it answers, and ``age``.

        ``age`` is that of the window before the last one, in windows: 1, or with facts a random
        number up to `OLDEST`, evenly distributed on a logarithmic scale.
        """
        if not 0 <= index < self._size:
            raise IndexError(index)
        draw = random.Random(f"example {self._seed} {index}")
        text = self._piece(index)
        count = len(text) // self._window
        with_facts, with_quotations, with_numbers = (
            draw.random() < share for share in (self._facts_share, self._quotations, self._numbers)
        )
        if with_numbers:
            text = self._with_numbers(text, draw)
        questions = self._facts_of(index, count, draw) if with_facts else []
        with_questions = self._questions > 0 and draw.random() < self._questions
        makers: list[list[Maker]] = [[] for _ in range(count)]
        for make, chosen in ((make_quotation, with_quotations), (make_question, with_questions)):
            if chosen:
                for _ in range(count * self._window // draw.choice(TOKENS_PER_QUOTATION)):
                    makers[draw.randrange(1, count)].append(make)
        windows: list[list[int]] = []
        answers: list[list[bool]] = []
        own: list[list[int]] = []  # text of each window
        told: set[int] = set()
        for place in range(count):
            pieces = [
                piece
                for piece in questions
                if piece.window == place and (piece.answer == 0 or told.issuperset(piece.facts))
            ]
            pieces += [
                piece for make in makers[place] if (piece := self._about(own[:place], make, draw))
            ]
            draw.shuffle(pieces)
            pieces = _fitting(pieces, self._window)
            told.update(one for piece in pieces if piece.answer == 0 for one in piece.facts)
            rest = self._window - sum(len(piece.tokens) for piece in pieces)
            own.append(text[:rest])
            text = text[rest:]
            window, mask = _insert(own[-1], pieces, draw)
            windows.append(window)
            answers.append(mask)
        return {
            "windows": torch.tensor(windows),
            "answers": torch.tensor(answers),
            "age": torch.tensor(OLDEST ** draw.random() if with_facts else 1.0),
        }

    def _piece(self, index: int) -> list[int]:
        """Draw a piece of a document: another one than those before it in its batch."""
        place = index % self._batch
        draw = random.Random(f"pieces {self._seed} {index - place}")
        drawn: list[tuple[int, range]] = []
        while len(drawn) <= place:
            for _ in range(TRIES):
                [document] = draw.choices(range(len(self._runs)), self._weights)
                run = self._runs[document]
                length = min(self._windows, len(run) // self._window) * self._window
                start = draw.randrange(len(run) - length + 1)
                span = range(start, start + length)
                if not any(document == other and _overlap(span, taken) for other, taken in drawn):
                    break
            drawn.append((document, span))
        document, span = drawn[-1]
        piece: list[int] = self._runs[document][span.start : span.stop].tolist()
        return piece

    def _with_numbers(self, text: list[int], draw: random.Random) -> list[int]:
        """Put numbers at random places of a text; its end goes."""
        count = len(text) // draw.choice(TOKENS_PER_NUMBER)
        pieces = [_Piece(self._tokens(f" {number(draw)}")) for _ in range(count)]
        return _insert(text, pieces, draw)[0][: len(text)]

    def _facts_of(self, index: int, count: int, draw: random.Random) -> list[_Piece]:
        """State facts in some windows, and ask for them in later ones."""
        number = max(1, count * self._window // draw.choice(TOKENS_PER_FACT))
        most = self._windows * self._window // TOKENS_PER_FACT[0]
        pieces, place = [], 0
        while place < number:
            together = draw.choice(FACTS_AT_ONCE)
            together = min(together, count - 1, number - place)
            told = sorted(draw.sample(range(count - 1), together))
            asked = draw.randrange(told[-1] + 1, count)
            numbers = tuple(range(place, place + together))
            facts, question = self._asked(index * most + place, together, draw)
            for fact, window, one in zip(facts, told, numbers, strict=True):
                statement = self._tokens(f" {fact.say(draw.choice(STATEMENTS + MORE_STATEMENTS))}")
                pieces.append(_Piece(statement, window=window, facts=(one,)))
            pieces.append(self._question(*question)._replace(window=asked, facts=numbers))
            place += together
        return pieces

    def _asked(
        self, first: int, count: int, draw: random.Random
    ) -> tuple[list[Fact], tuple[str, str]]:
        """Return facts, and a question for all of them with its answer."""
        if count == 1:
            fact = self._facts[first]
            asked = fact.say(draw.choice(QUESTIONS + MORE_QUESTIONS))
            return [fact], (asked, fact.answer)
        if draw.random() < 0.5:
            facts = self._facts.of_one_key(first, count)
        else:
            facts = [self._facts[number] for number in range(first, first + count)]
        return facts, ask_for(facts, draw.choice(QUESTIONS_OF_SEVERAL))

    def _about(self, before: list[list[int]], make: Maker, draw: random.Random) -> _Piece | None:
        """Ask about the text of a window before."""
        source = before[draw.randrange(len(before))]
        made = make(self._tokenizer.decode(source), draw)
        return None if made is None else self._question(*made)

    def _question(self, asked: str, answer: str) -> _Piece:
        tokens = self._tokens(f" {answer}")
        return _Piece(self._tokens(f" {asked}") + tokens + self._tokens(".")[:1], len(tokens))

    def _tokens(self, text: str) -> list[int]:
        return token_ids(self._tokenizer, text)


class _Piece(NamedTuple):
    """Tokens to insert into a text."""

    tokens: list[int]
    answer: int = 0
    """Tokens before the last one that answer; 0: it is no question."""
    window: int = 0
    facts: tuple[int, ...] = ()
    """Numbers of the facts that it states or asks for."""


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _fitting(pieces: list[_Piece], room: int) -> list[_Piece]:
    """Return the pieces that fit a window, in their order."""
    fitting = []
    for piece in pieces:
        if len(piece.tokens) <= room:
            room -= len(piece.tokens)
            fitting.append(piece)
    return fitting


def _insert(
    text: list[int], pieces: list[_Piece], draw: random.Random
) -> tuple[list[int], list[bool]]:
    """Insert pieces at random places of a text, in their order; return also where it answers."""
    places = sorted(draw.randrange(len(text) + 1) for _ in pieces)
    joined: list[int] = []
    answers: list[bool] = []
    begin = 0
    for place, piece in zip(places, pieces, strict=True):
        joined += text[begin:place] + piece.tokens
        answers += [False] * (len(joined) - len(answers))
        answers[len(joined) - 1 - piece.answer : len(joined) - 1] = [True] * piece.answer
        begin = place
    joined += text[begin:]
    return joined, answers + [False] * (len(joined) - len(answers))
