"""Trials of the pass key evaluation: pieces of a text with a hidden number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from fotmem.errors import InputError
from fotmem.measure.reading import LOCAL, OVERLAP
from fotmem.models.tokens import token_ids
from fotmem.tasks.pass_key import NAME, fact


@dataclass(frozen=True)
class Trial:
    """One hidden number: the text that is read into memory, the local text, and the number."""

    read: list[int]
    local: list[int]
    code: str
    shared: list[int] = field(default_factory=list)
    """Text that is read before, once for all trials that share it."""
    replaced: range = range(0)
    """Tokens of the shared text that `read` replaces."""

    @property
    def tokens(self) -> int:
        """Length of the text, with the number."""
        return len(self.shared) - len(self.replaced) + len(self.read) + len(self.local)


def make_trials(
    tokenizer: Any,
    text: str,
    *,
    tokens: int,
    trials: int,
    seed: int,
    window: int = 0,
    readings: int | None = None,
    longest: int = 0,
) -> list[Trial]:
    """Hide a five-digit number at a random depth of each of `trials` pieces of a text.

    With `readings`, trials share that many pieces. Each piece is read once, without a number. For
    each of its trials one window of `window` tokens is read again, with the number in it, and
    replaces the same window without it (`Memory.replace`). The result equals reading the piece
    with the number, as long as windows do not attend to memory while they are read. The local text
    is another part of the text for each trial, because it influences the answer. Pieces with the
    same `longest` begin alike, so that a longer piece continues the reading of a shorter one.

    Raises
    ------
    InputError
        The text is shorter than `tokens`, or `tokens` leaves no room for the fact.
    """
    ids = token_ids(tokenizer, text)
    draw, drawn = random.Random(seed), random.Random(f"pieces {seed}")
    made: list[Trial] = []
    for number in range(trials):
        code = str(draw.randrange(10_000, 100_000))
        hidden = token_ids(tokenizer, fact(NAME, code))
        filler = tokens - len(hidden)
        if filler <= LOCAL:
            raise InputError(
                f"tokens must be more than {LOCAL + len(hidden)} (fact, local text), got {tokens}"
            )
        if len(ids) < filler:
            raise InputError(f"the text has {len(ids):,} tokens, {filler:,} are needed: add text")
        if readings is None:
            piece = _piece(ids, filler, draw)
            depth = draw.randrange(filler - LOCAL + 1)
            read = piece[:depth] + hidden + piece[depth : filler - LOCAL]
            made.append(Trial(read, piece[filler - LOCAL :], code))
            continue
        if number * readings // trials != (number - 1) * readings // trials:
            piece = _piece(ids, min(max(tokens, longest), len(ids)), drawn)
            shared = piece[: filler - LOCAL]
        read, replaced = _surrounded(shared, hidden, window, draw)
        made.append(Trial(read, _piece(ids, LOCAL, draw), code, shared, replaced))
    return made


def _piece(ids: list[int], length: int, draw: random.Random) -> list[int]:
    start = draw.randrange(len(ids) - length + 1)
    return ids[start : start + length]


def _surrounded(
    text: list[int], hidden: list[int], window: int, draw: random.Random
) -> tuple[list[int], range]:
    """Put a fact at a random place of a text; return the window around it, and the old window."""
    room = min(len(text), max(0, window - OVERLAP - len(hidden)))
    depth = draw.randrange(len(text) + 1)
    begin = min(max(0, depth - draw.randrange(room + 1)), len(text) - room)
    end = begin + room
    return text[begin:depth] + hidden + text[depth:end], range(begin, end)
