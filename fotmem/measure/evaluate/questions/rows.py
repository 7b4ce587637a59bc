"""The results of natural questions, and what a model said to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fotmem.measure.evaluate.questions.answer_match import token_f1
from fotmem.measure.evaluate.questions.prompt import first_line
from fotmem.measure.evaluate.questions.question_file import Question
from fotmem.measure.evaluate.questions.text_pieces import TextPiece
from fotmem.measure.evaluate.window_share import ThreeAnswers, WindowShare, window_share


@dataclass(frozen=True)
class GivenAnswers:
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

    f1: TokenF1
    said: list[GivenAnswers]


def make_row(pieces: Sequence[TextPiece], store: str, answers: ThreeAnswers) -> QuestionsRow:
    """Compare what was said."""
    questions = [each.question for piece in pieces for each in piece.asked]
    lines = {way: list(map(first_line, asked.said)) for way, asked in answers._asdict().items()}
    return QuestionsRow(
        tokens=max(piece.tokens for piece in pieces),
        store=store,
        **window_share(**answers.means, trials=len(questions)),
        seconds=answers.with_memory.seconds,
        f1=TokenF1(**{way: _mean_f1(questions, said) for way, said in lines.items()}),
        said=[
            GivenAnswers(one.question, one.answers, **dict(zip(lines, said, strict=True)))
            for one, *said in zip(questions, *lines.values(), strict=True)
        ],
    )


def _mean_f1(questions: Sequence[Question], said: Sequence[str]) -> float:
    return fmean(
        token_f1(line, question.answers) for question, line in zip(questions, said, strict=True)
    )
