"""The texts and questions of the evaluations, as every way to answer gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fotmem.measure.evaluate.alternatives.way import AskedText, Question
from fotmem.measure.evaluate.facts import FactQuestion
from fotmem.measure.evaluate.passkey_trials import Trial
from fotmem.measure.evaluate.questions.answer_match import contains
from fotmem.measure.evaluate.questions.question_file import Question as NaturalQuestion
from fotmem.measure.evaluate.questions.run import (
    NEW_TOKENS,
    first_line,
    is_finished,
    question_ids,
)
from fotmem.measure.evaluate.questions.text_pieces import TextPiece
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.tasks.pass_key import NAME, question, split_answer


def of_passkeys(tokenizer: Any, trials: Sequence[Trial]) -> list[AskedText]:
    """Ask for the hidden number of each trial; an answer is right or wrong."""
    return [
        AskedText(trial.text, [_number(tokenizer, question(NAME), trial.code)]) for trial in trials
    ]


def of_facts(tokenizer: Any, text: list[int], facts: Sequence[FactQuestion]) -> list[AskedText]:
    """Ask for all facts of one text; an answer is right or wrong."""
    asked = [_number(tokenizer, f" {one.question}", one.fact.answer) for one in facts]
    return [AskedText(text, asked)]


def of_samples(samples: Sequence[Sample]) -> list[AskedText]:
    """Ask the question of each sample of RULER; its score is the share of the answers."""
    return [AskedText([*sample.read, *sample.local], [_sample(sample)]) for sample in samples]


def of_pieces(tokenizer: Any, pieces: Sequence[TextPiece]) -> list[AskedText]:
    """Ask the natural questions about each piece of a text; right answers count as 1."""
    return [
        AskedText(
            [*piece.read, *piece.local], [_natural(tokenizer, asked) for asked, _ in piece.asked]
        )
        for piece in pieces
    ]


def _natural(tokenizer: Any, asked: NaturalQuestion) -> Question:
    return Question(
        question_ids(tokenizer, asked.question),
        NEW_TOKENS,
        score=lambda said: float(contains(first_line(said), asked.answers)),
        until=is_finished,
        query=asked.question,
    )


def _sample(sample: Sample) -> Question:
    return Question(sample.question, sample.new_tokens, sample.score, sample.is_complete)


def _number(tokenizer: Any, text: str, answer: str) -> Question:
    prompt, code = split_answer(tokenizer, text, answer)
    return Question(prompt, len(code), score=lambda said: float(said == answer))
