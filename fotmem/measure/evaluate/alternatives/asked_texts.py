"""The texts and questions of the evaluations, as every way to answer gets them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from fotmem.measure.evaluate.alternatives.way import AskedText, Question
from fotmem.measure.evaluate.facts import FactQuestion
from fotmem.measure.evaluate.passkey_trials import Trial
from fotmem.measure.evaluate.questions.answer_match import contains
from fotmem.measure.evaluate.questions.prompt import NEW_TOKENS, PROMPT, first_line, is_finished
from fotmem.measure.evaluate.questions.text_pieces import AskedQuestion, TextPiece
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids
from fotmem.tasks.pass_key import NAME, question, split_answer


def of_passkeys(tokenizer: Any, trials: Sequence[Trial]) -> list[AskedText]:
    """Ask for the hidden number of each trial; an answer is right or wrong."""
    return [
        AskedText(
            trial.shared or trial.read,
            trial.local,
            [_number(tokenizer, question(NAME), trial.code)],
            trial.edits,
        )
        for trial in trials
    ]


def of_facts(tokenizer: Any, text: list[int], facts: Sequence[FactQuestion]) -> list[AskedText]:
    """Ask for all facts of one text; an answer is right or wrong."""
    asked = [_number(tokenizer, f" {one.question}", one.fact.answer) for one in facts]
    return [AskedText(text[:-LOCAL], text[-LOCAL:], asked)]


def of_samples(samples: Sequence[Sample], *, to_end: bool = False) -> list[AskedText]:
    """Ask the question of each sample of RULER; its score is the share of the answers.

    Samples one after another that share a text, and hide nothing more in it, are questions about
    one text. An answer ends where it is right, which saves time; with `to_end` it does not, for who
    asks does not know what is right, and times shall not depend on it.
    """
    texts = []
    for _, group in groupby(samples, key=lambda each: (id(each.read), each.edits)):
        one, *others = group
        questions = [_sample(each, to_end) for each in (one, *others)]
        texts.append(AskedText(one.read, one.local, questions, one.edits))
    return texts


def of_pieces(tokenizer: Any, pieces: Sequence[TextPiece]) -> list[AskedText]:
    """Ask the natural questions about each piece of a text; right answers count as 1."""
    return [
        AskedText(piece.read, piece.local, [_natural(tokenizer, asked) for asked in piece.asked])
        for piece in pieces
    ]


def _natural(tokenizer: Any, asked: AskedQuestion) -> Question:
    return Question(
        token_ids(tokenizer, PROMPT.format(question=asked.question.question)),
        NEW_TOKENS,
        score=lambda said: float(contains(first_line(said), asked.question.answers)),
        until=is_finished,
        query=asked.question.question,
        evidence=asked.evidence,
    )


def _sample(sample: Sample, to_end: bool) -> Question:
    return Question(
        sample.question,
        sample.new_tokens,
        score=sample.score,
        until=None if to_end else sample.is_complete,
        evidence=sample.evidence,
    )


def _number(tokenizer: Any, text: str, answer: str) -> Question:
    prompt, code = split_answer(tokenizer, text, answer)
    return Question(prompt, len(code), score=lambda said: float(said == answer))
