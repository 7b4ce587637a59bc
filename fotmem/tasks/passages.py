"""The passages of a memory that an answer came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fotmem.memory.text import MemoryDocument

if TYPE_CHECKING:
    from fotmem.memory.explain import AttendedToken
    from fotmem.memory.memory import Memory
    from fotmem.memory.retrieval import RetrievedPassage

AROUND = 16
"""Tokens before and after an attended token that belong to its passage."""


@dataclass(frozen=True)
class Passage:
    """Neighbouring remembered tokens, some of which an answer attended to."""

    document: str
    """Name of the document; empty if it has none."""
    characters: tuple[int, int] | None
    """First character in the document, and the one after the last; None if unknown."""
    tokens: tuple[int, int]
    """Id of the first token, and the id after the last one."""
    weight: float
    """From 0 to 1: the largest weight of an attended token; of a passage that was retrieved, its
    own."""
    text: str


def passages(
    memory: Memory, tokenizer: Any, attended: Sequence[AttendedToken], *, around: int = AROUND
) -> list[Passage]:
    """Merge attended tokens that lie close together into passages, best first.

    Parameters
    ----------
    memory : Memory
        Which holds the tokens.
    tokenizer : transformers tokenizer
    attended : sequence of AttendedToken
    around : int
        Tokens before and after each that are shown. A passage ends where its document ends.
    """
    documents, length = memory.documents, len(memory.tokens)
    spans: list[tuple[MemoryDocument | None, int, int, float]] = []
    for token in sorted(attended, key=lambda each: each.position):
        document = _document_at(documents, token.position)
        first, stop = _span(document, token.position, around, length)
        if spans and spans[-1][0] == document and first <= spans[-1][2]:
            _, begun, _, weight = spans.pop()
            spans.append((document, begun, stop, max(weight, token.weight)))
        else:
            spans.append((document, first, stop, token.weight))
    found = [_passage(memory, tokenizer, *span) for span in spans]
    return sorted(found, key=lambda each: -each.weight)


def quoted(memory: Memory, tokenizer: Any, retrieved: Sequence[RetrievedPassage]) -> list[Passage]:
    """Return the text and the place of passages that were retrieved, in their order."""
    documents = memory.documents
    return [
        _passage(memory, tokenizer, _document_at(documents, each.start), *each)
        for each in retrieved
    ]


def _document_at(documents: Sequence[MemoryDocument], position: int) -> MemoryDocument | None:
    return next((each for each in documents if 0 <= position - each.first < each.tokens), None)


def _span(
    document: MemoryDocument | None, position: int, around: int, length: int
) -> tuple[int, int]:
    begin, end = 0, length
    if document is not None:
        begin, end = document.first, document.first + document.tokens
    return max(begin, position - around), min(end, position + around + 1)


def _passage(
    memory: Memory,
    tokenizer: Any,
    document: MemoryDocument | None,
    first: int,
    stop: int,
    weight: float,
) -> Passage:
    rows = memory.token_rows(first, stop)
    # A piece may begin or end within a character.
    text = tokenizer.decode(rows.ids.tolist()).strip("\N{REPLACEMENT CHARACTER}")
    known = document is not None and document.characters is not None
    characters = (int(rows.starts[0]), int(rows.stops[-1])) if known else None
    name = "" if document is None else document.name
    return Passage(name, characters, (first, stop), weight, text)
