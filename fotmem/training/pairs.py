"""Pairs of windows to train on: facts in the previous one, questions in the current one."""

from __future__ import annotations

import math
import random
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fotmem.errors import OptionError
from fotmem.memory.decay import OLDEST
from fotmem.models.tokens import token_ids
from fotmem.tasks.facts import QUESTIONS, STATEMENTS, Facts
from fotmem.tasks.numbers import number

TOKENS_PER_FACT = 32
"""Tokens of a window for each fact in it."""
TOKENS_PER_NUMBER = (24, 48, 96)
"""Tokens of text for each number that is put into it; one of these for each example."""


class Pairs(Dataset[dict[str, Tensor]]):
    """Consecutive windows of documents, some with facts in one and questions in the next.

    Each example depends only on its index and the seed, so that training resumes exactly.

    Parameters
    ----------
    runs : list of Tensor
        Token ids ``[n]`` of documents, each of at least two windows. A document that is four times
        as long is drawn twice as often: texts differ more than the parts of a text.
    tokenizer : transformers tokenizer
    window : int
        Tokens per window ``T``.
    facts : float
        Share of examples with facts, from 0 to 1: the previous window gets ``T // 32`` facts at
        random places, or as many as fit; the current one asks for all but one of them.
    earlier : int
        How many windows before the previous one an example without facts has, or as many as its
        document has.
    numbers : float
        Share of examples with numbers at random places of their text, from 0 to 1.
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
        facts: float,
        size: int,
        seed: int,
        earlier: int = 0,
        numbers: float = 0.0,
    ) -> None:
        if facts and window < TOKENS_PER_FACT:
            raise OptionError(
                f"window must be at least {TOKENS_PER_FACT} to hold facts, got {window}: choose a "
                "larger one, or facts=0"
            )
        self._runs, self._tokenizer, self._window = runs, tokenizer, window
        self._share, self._size, self._seed = facts, size, seed
        self._earlier, self._numbers = earlier, numbers
        self._facts = Facts(seed)
        self._weights = [math.sqrt(len(run)) for run in runs]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``previous [T]``, ``current [T]`` and ``answers [T]``, True where it answers.

        ``earlier [P, T]`` are the windows before ``previous``, oldest first.
        ``age`` is the age of the previous window, in windows: 1, or with facts a random number up
        to `OLDEST`, evenly distributed on a logarithmic scale.
        """
        if not 0 <= index < self._size:
            raise IndexError(index)
        draw = random.Random(f"pair {self._seed} {index}")
        [run] = draw.choices(self._runs, self._weights)
        told: list[list[int]] = []
        asked: list[list[int]] = []
        answers: list[int] = []
        dot = self._tokens(".")[:1]
        if draw.random() < self._share:
            number = self._window // TOKENS_PER_FACT
            facts = [self._facts[index * number + place] for place in range(number)]
            told = [self._tokens(f" {fact.say(draw.choice(STATEMENTS))}") for fact in facts]
            told = self._fitting(told)
            known = facts[: len(told)]
            for fact in draw.sample(known, len(known) - (len(known) > 1)):
                answer = self._tokens(f" {fact.answer}")
                question = self._tokens(f" {fact.say(draw.choice(QUESTIONS))}")
                asked.append(question + answer + dot)
                answers.append(len(answer))
            asked = self._fitting(asked)
            answers = answers[: len(asked)]
        own = self._window - sum(map(len, told)), self._window - sum(map(len, asked))
        earlier_windows = 0 if told else min(self._earlier, len(run) // self._window - 2)
        before = earlier_windows * self._window
        text = self._text(run, before + sum(own), draw)
        earlier, text = text[:before], text[before:]
        previous, _ = _insert(text[: own[0]], told, draw)
        current, ends = _insert(text[own[0] :], asked, draw)
        mask = torch.zeros(self._window, dtype=torch.bool)
        for end, length in zip(ends, answers, strict=True):
            mask[end - 1 - length : end - 1] = True
        return {
            "earlier": torch.tensor(earlier, dtype=torch.long).view(-1, self._window),
            "previous": torch.tensor(previous),
            "current": torch.tensor(current),
            "answers": mask,
            "age": torch.tensor(OLDEST ** draw.random() if told else 1.0),
        }

    def _text(self, run: Tensor, length: int, draw: random.Random) -> list[int]:
        """Draw a piece of a document, perhaps with numbers in it."""
        start = draw.randrange(len(run) - length + 1)
        text: list[int] = run[start : start + length].tolist()
        if draw.random() >= self._numbers:
            return text
        count = length // draw.choice(TOKENS_PER_NUMBER)
        numbers = [self._tokens(f" {number(draw)}") for _ in range(count)]
        return _insert(text, numbers, draw)[0][:length]

    def _fitting(self, pieces: list[list[int]]) -> list[list[int]]:
        """Return the first pieces, as many as fit a window."""
        ends = accumulate(map(len, pieces))
        return [piece for piece, end in zip(pieces, ends, strict=True) if end <= self._window]

    def _tokens(self, text: str) -> list[int]:
        return token_ids(self._tokenizer, text)


def _insert(
    text: list[int], pieces: list[list[int]], draw: random.Random
) -> tuple[list[int], list[int]]:
    """Insert pieces at random places of a text, in their order; return also where each ends."""
    places = sorted(draw.randrange(len(text) + 1) for _ in pieces)
    joined: list[int] = []
    ends, begin = [], 0
    for place, piece in zip(places, pieces, strict=True):
        joined += text[begin:place] + piece
        ends.append(len(joined))
        begin = place
    return joined + text[begin:], ends
