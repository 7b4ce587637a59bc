"""Reads a JSONL file of questions about a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from fotmem.errors import InputError
from fotmem.files import read_text
from fotmem.measure.evaluate.questions.answer_match import normalized
from fotmem.measure.setting import first_of


def _refuse_wordless(answer: str) -> str:
    if not normalized(answer):
        raise ValueError(f"{answer!r} has no word beside articles and punctuation")
    return answer


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Answer = Annotated[Words, AfterValidator(_refuse_wordless)]


class Question(BaseModel):
    """A question, and where in a text the answer stands."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    question: Words
    answers: Annotated[list[Answer], Field(min_length=1)]
    """Ways to say the answer; one of them stands in the passage."""
    passage: Words
    """A few words that occur once in the text, in the middle of the passage."""


def read_questions(file: Path) -> list[Question]:
    """Read a file with a question in each line; empty lines are skipped.

    Raises
    ------
    InputError
        The file cannot be read or is empty, or a line is not a question; the message names it.
    """
    made = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            try:
                made.append(Question.model_validate_json(line))
            except ValidationError as error:
                raise InputError(
                    f"{file}, line {number}: expected an object such as "
                    '{"question": "Who ...?", "answers": ["..."], "passage": "a few words"}; '
                    f"{first_of(error)}"
                ) from error
    return made
