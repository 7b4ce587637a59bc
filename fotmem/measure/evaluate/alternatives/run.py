"""Asks all ways to answer the same questions, and measures what they reach and cost."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import torch

from fotmem.measure.evaluate.alternatives.way import AskedText, Way
from fotmem.measure.evaluate.intervals import wilson


@dataclass(frozen=True)
class WayRow:
    """What a way to answer reaches in a task, and what it costs."""

    way: str
    """Its name, or ``memory``."""
    task: str
    tokens: int
    """Length of the text."""
    score: float
    """Mean over all questions."""
    score_interval: tuple[float, float]
    """95% interval (Wilson, as if each question had one answer)."""
    questions: int
    first_seconds: float
    """From a text that was never read to the first answer: median over texts."""
    further_seconds: float
    """Of a question about a text that was read: median."""
    kept_bytes: int
    """Bytes kept between two questions: median over texts."""


@dataclass
class Answers:
    """What a way said to the questions so far, and what that cost."""

    said: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    """Of each text that a memory reads: from the text that was never read to the first answer."""
    further_seconds: list[float] = field(default_factory=list)
    """Of each question, about a text that was read."""
    kept_bytes: list[int] = field(default_factory=list)
    """After each of these first answers."""
    seconds: float = 0.0
    """Of everything."""


def ask_all(way: Way, texts: Sequence[AskedText]) -> Iterator[Answers]:
    """Ask a way to answer all questions; yield the answers so far after each of them.

    Raises
    ------
    InputError
        A window has no room for text beside a question and its answer.
    """
    answers, start, read = Answers(), _now(way), None
    for text in texts:
        began = _now(way)
        with way.reading(text, max(question.room for question in text.questions)):
            for number, question in enumerate(text.questions):
                asked = _now(way)
                answers.said.append(way.answer(question))
                answers.scores.append(question.score(answers.said[-1]))
                answered = _now(way)
                answers.further_seconds.append(answered - asked)
                if number == 0 and text.read is not read:
                    answers.first_seconds.append(answered - began)
                    answers.kept_bytes.append(way.kept_bytes)
                answers.seconds = answered - start
                yield answers
        read = text.read


def way_row(way: str, answers: Answers, *, task: str, tokens: int) -> WayRow:
    """Combine the answers of a way, which has this name."""
    scores = answers.scores
    return WayRow(
        way=way,
        task=task,
        tokens=tokens,
        score=fmean(scores),
        score_interval=wilson(sum(scores), len(scores)),
        questions=len(scores),
        first_seconds=median(answers.first_seconds),
        further_seconds=median(answers.further_seconds),
        kept_bytes=int(median(answers.kept_bytes)),
    )


def means_of(rows: Sequence[WayRow], tasks: Collection[str], name: str) -> list[WayRow]:
    """Return the mean over tasks for each way that was asked all of them, as a row of its own.

    Parameters
    ----------
    rows : sequence of WayRow
        Of one length.
    tasks : collection of str
    name : str
        The task of the new rows.
    """
    found = []
    for way in dict.fromkeys(row.way for row in rows):
        some = [row for row in rows if row.way == way and row.task in tasks]
        if len(some) == len(tasks):
            questions, score = sum(row.questions for row in some), fmean(row.score for row in some)
            found.append(
                WayRow(
                    way=way,
                    task=name,
                    tokens=some[0].tokens,
                    score=score,
                    score_interval=wilson(score * questions, questions),
                    questions=questions,
                    first_seconds=fmean(row.first_seconds for row in some),
                    further_seconds=fmean(row.further_seconds for row in some),
                    kept_bytes=int(fmean(row.kept_bytes for row in some)),
                )
            )
    return found


def _now(way: Way) -> float:
    """Return the time when the device has done all that it was given."""
    if way.model.device.type == "cuda":
        torch.cuda.synchronize(way.model.device)
    return time.perf_counter()
