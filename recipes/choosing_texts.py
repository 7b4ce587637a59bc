"""What is asked about the choosing texts, by which settings are chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fotmem.errors import InputError
from fotmem.files import read_text
from fotmem.measure.evaluate.questions.question_file import read_questions
from fotmem.measure.evaluate.questions.text_pieces import TextPiece, cut
from fotmem.measure.evaluate.scored_text import ScoredText
from fotmem.models.tokens import token_ids
from recipes.choosing_scores import scored_text
from recipes.hard_text import HardText, make_hard_text

QUESTIONS = Path("recipes/questions/choosing")
PIECE = 8192
"""Tokens that are read for natural questions."""
SEED = 0


class Asked(NamedTuple):
    """What is asked with each setting."""

    texts: dict[str, ScoredText]
    hard: HardText
    pieces: list[TextPiece]
    """Of the texts that have natural questions."""


def asked_of(tokenizer: Any, files: Sequence[Path]) -> Asked:
    """Make everything that is asked about texts.

    Raises
    ------
    InputError
        A text cannot be read, is too short, or is not that of the questions with its name: the
        message names it. All of them together have too few sentences.
    """
    ids: dict[str, list[int]] = {}
    texts: dict[str, ScoredText] = {}
    pieces: list[TextPiece] = []
    for file in files:
        kind, content = file.stem, read_text(file)
        ids[kind] = token_ids(tokenizer, content)
        try:
            texts[kind] = scored_text(ids[kind])
            if (asked := QUESTIONS / f"{kind}.jsonl").exists():
                pieces += cut(tokenizer, content, read_questions(asked), tokens=PIECE, seed=SEED)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    return Asked(texts, make_hard_text(tokenizer, ids, SEED), pieces)
