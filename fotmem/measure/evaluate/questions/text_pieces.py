"""Pieces of a text, each with the questions about passages in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from fotmem.documents.document import Document
from fotmem.documents.tokens import tokenized
from fotmem.errors import InputError
from fotmem.measure.evaluate.questions.answer_match import contains
from fotmem.measure.reading import LOCAL

if TYPE_CHECKING:
    from fotmem.measure.evaluate.questions.question_file import Question

PASSAGE = 256
"""Tokens of a passage; the words that name it begin in its middle."""


class AskedQuestion(NamedTuple):
    """A question, and the tokens of the passage with the answer."""

    question: Question
    evidence: list[int]


class TextPiece(NamedTuple):
    """A piece of a text, as token ids, and the questions about it."""

    read: list[int]
    """What is read into memory."""
    local: list[int]
    """The end of the piece, which stays in the window. No passage is in it."""
    asked: list[AskedQuestion]

    @property
    def tokens(self) -> int:
        """Length of the piece."""
        return len(self.read) + len(self.local)


def cut(
    tokenizer: Any, text: str, questions: Sequence[Question], *, tokens: int, seed: int
) -> list[TextPiece]:
    """Cut out as few pieces of `tokens` tokens as have all passages; a short text is one piece.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        A fast one, which knows the characters of each token.
    text : str
    questions : sequence of Question
    tokens : int
    seed : int
        Decides where a piece begins, as far as its passages leave a choice.

    Raises
    ------
    InputError
        A passage does not occur once, has no answer in it, or is longer than a piece.
    """
    if tokens < PASSAGE + LOCAL:
        raise InputError(
            f"tokens must be at least {PASSAGE + LOCAL} (passage, local text), got {tokens}"
        )
    document = tokenized(Document("the text", text), tokenizer, add_special_tokens=False)
    ids: list[int] = document.ids.tolist()
    if len(ids) < PASSAGE + LOCAL:
        raise InputError(
            f"the text has {len(ids):,} tokens, {PASSAGE + LOCAL} are needed: add text"
        )
    room, draw = min(tokens, len(ids)) - LOCAL, Random(f"pieces {seed}")
    found = []
    for question in questions:
        middle = int((document.stops <= _place(text, question)).sum())
        first = max(0, min(middle - PASSAGE // 2, len(ids) - LOCAL - PASSAGE))
        found.append((first, AskedQuestion(question, ids[first : first + PASSAGE])))
        _check_answer(tokenizer, found[-1][1])
    return [_piece(ids, some, room, draw) for some in _together(found, room)]


def _place(text: str, question: Question) -> int:
    """Return the character where a passage is; line breaks count as spaces."""
    words = r"\s+".join(map(re.escape, question.passage.split()))
    places = [found.start() for found in re.finditer(words, text)]
    if len(places) != 1:
        raise InputError(
            f"the passage {question.passage!r} must occur once in the text, it occurs "
            f"{len(places):,} times: give the text of these questions, or other words"
        )
    return places[0]


def _check_answer(tokenizer: Any, asked: AskedQuestion) -> None:
    question = asked.question
    if not contains(tokenizer.decode(asked.evidence), question.answers):
        raise InputError(
            f"none of {question.answers} stands within {PASSAGE // 2} tokens of "
            f"{question.passage!r} and before the last {LOCAL} tokens of the text: name the "
            "passage by words near the answer"
        )


def _together(
    found: Sequence[tuple[int, AskedQuestion]], room: int
) -> list[list[tuple[int, AskedQuestion]]]:
    """Group passages that fit into one piece, in the order of the text."""
    groups: list[list[tuple[int, AskedQuestion]]] = []
    for first, asked in sorted(found, key=lambda each: each[0]):
        if groups and first + PASSAGE - groups[-1][0][0] <= room:
            groups[-1].append((first, asked))
        else:
            groups.append([(first, asked)])
    return groups


def _piece(
    ids: list[int], some: Sequence[tuple[int, AskedQuestion]], room: int, draw: Random
) -> TextPiece:
    """Cut out `room` tokens with all of these passages, and the local text after them."""
    lowest = max(0, some[-1][0] + PASSAGE - room)
    start = draw.randint(lowest, min(some[0][0], len(ids) - LOCAL - room))
    stop = start + room
    return TextPiece(ids[start:stop], ids[stop : stop + LOCAL], [asked for _, asked in some])
