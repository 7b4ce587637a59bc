"""Asks a model about passages: without memory, with the text in memory, with them in its window."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from fotmem.measure.evaluate.intervals import ratio_interval
from fotmem.measure.evaluate.questions.answer_match import contains, token_f1
from fotmem.measure.evaluate.questions.text_pieces import TextPiece
from fotmem.measure.evaluate.window_share import WindowShare, window_share
from fotmem.measure.reading import remember
from fotmem.models.tokens import token_ids
from fotmem.tasks.answer import answer_question

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory

NEW_TOKENS = 32
PROMPT = "\n\nQuestion: {question}\nShort answer:"
"""What follows the text.

SmolLM2-135M answers it no worse than its chat template, and sooner: measured with the passage in
the window, on texts that no figures are reported for.
"""
WAYS = ("without_memory", "with_memory", "in_window")
"""How each question is asked; names of fields."""


@dataclass(frozen=True)
class Said:
    """What a model said to a question."""

    question: str
    answers: list[str]
    """The right ones."""
    without_memory: str
    with_memory: str
    in_window: str


@dataclass(frozen=True)
class TokenF1:
    """Mean F1 of the words, from 0 to 1."""

    without_memory: float
    with_memory: float
    in_window: float


@dataclass(frozen=True, kw_only=True)
class QuestionsRow(WindowShare):
    """The results of all questions; the score of an answer is 1 if it contains a right one."""

    share_interval: tuple[float, float] | None
    """95% interval of `share` (bootstrap over questions); None if `share` is None."""
    f1: TokenF1
    said: list[Said]


class BareAnswers(NamedTuple):
    """What a model without a memory said to the questions so far."""

    without_memory: list[str]
    in_window: list[str]


def ask_bare(model: Any, tokenizer: Any, pieces: Sequence[TextPiece]) -> Iterator[BareAnswers]:
    """Ask a model without a memory; each result covers the questions so far."""
    said = BareAnswers([], [])
    for piece in pieces:
        for question, evidence in piece.asked:
            for texts, before in ((said.without_memory, []), (said.in_window, evidence)):
                texts.append(_ask(model, tokenizer, before + piece.local, question.question))
            yield said


def ask_with_memory(
    model: Any,
    tokenizer: Any,
    pieces: Sequence[TextPiece],
    memory: Memory,
    *,
    attend: bool = False,
) -> Iterator[list[str]]:
    """Read piece after piece into an empty memory and ask; as `ask_bare`.

    `attend` says whether windows attend to memory while they are read.
    """
    said: list[str] = []
    for piece in pieces:
        memory.clear()
        remember(memory, piece.read, attend=attend)
        for answer in ask_piece(model, tokenizer, piece):
            said.append(answer)
            yield said


def ask_piece(model: Any, tokenizer: Any, piece: TextPiece) -> Iterator[str]:
    """Ask about a piece that is in memory already, or the evidence in its local text."""
    for question, _ in piece.asked:
        yield _ask(model, tokenizer, piece.local, question.question)


def question_ids(tokenizer: Any, question: str) -> list[int]:
    """Return the tokens of a question, which follow the text."""
    return token_ids(tokenizer, PROMPT.format(question=question))


def is_finished(said: str) -> bool:
    """Return whether an answer has its first line, which counts."""
    return "\n" in said.strip()


def first_line(said: str) -> str:
    """Return what counts of an answer."""
    return said.partition("\n")[0]


def _ask(model: Any, tokenizer: Any, text: list[int], question: str) -> str:
    """Return the first line of what a model says."""
    said = answer_question(
        model,
        tokenizer,
        text + question_ids(tokenizer, question),
        max_new_tokens=NEW_TOKENS,
        until=is_finished,
    ).text
    return first_line(said)


def make_row(
    pieces: Sequence[TextPiece], store: str, bare: BareAnswers, with_memory: list[str], begin: float
) -> QuestionsRow:
    """Compare what was said; `begin` is the time when asking with memory began."""
    questions = [each.question for piece in pieces for each in piece.asked]
    said = [
        Said(one.question, one.answers, *texts)
        for one, *texts in zip(
            questions, bare.without_memory, with_memory, bare.in_window, strict=True
        )
    ]
    scores = {
        way: [float(contains(getattr(each, way), each.answers)) for each in said] for way in WAYS
    }
    means = {way: fmean(some) for way, some in scores.items()}
    return QuestionsRow(
        tokens=max(piece.tokens for piece in pieces),
        store=store,
        **window_share(**means, trials=len(said)),
        share_interval=ratio_interval(scores["with_memory"], scores["in_window"]),
        seconds=time.perf_counter() - begin,
        f1=TokenF1(
            **{
                way: fmean(token_f1(getattr(each, way), each.answers) for each in said)
                for way in WAYS
            }
        ),
        said=said,
    )
