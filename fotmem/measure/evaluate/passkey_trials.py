"""Trials of the pass key evaluation: pieces of a text with a hidden number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from fotmem.errors import InputError
from fotmem.measure.evaluate.text_edits import Edit, Insertion, edited, edits_around, inserted
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids
from fotmem.tasks.distractors import Distractor, make_distractors, similar_code
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
    distractors: list[Distractor] = field(default_factory=list)
    """What is stated beside the number, in `shared` or in `read`."""

    @property
    def edits(self) -> list[Edit]:
        """What puts the number into the shared text."""
        return [Edit(self.replaced, self.read)] if self.shared else []

    @property
    def text(self) -> list[int]:
        """The whole text, with the number."""
        return [*edited(self.shared or self.read, self.edits), *self.local]

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
    distractors: int = 0,
) -> list[Trial]:
    """Hide a five-digit number at a random depth of each of `trials` pieces of a text.

    With `readings`, trials share that many pieces. Each piece is read once, without a number. For
    each of its trials one window of `window` tokens is read again, with the number in it, and
    replaces the same window without it (`Memory.replace`). The result equals reading the piece
    with the number, as long as windows do not attend to memory while they are read. The local text
    is another part of the text for each trial, because it influences the answer. Pieces with the
    same `longest` begin alike, so that a longer piece continues the reading of a shorter one; with
    distractors it does not.

    With `distractors`, each piece states that many other numbers at random depths, and the hidden
    number differs from one of them in one or two digits.

    Raises
    ------
    InputError
        The text is shorter than `tokens`, or `tokens` leaves no room for what is hidden.
    """
    ids = token_ids(tokenizer, text)
    draw, drawn = random.Random(seed), random.Random(f"pieces {seed}")
    made: list[Trial] = []
    for number in range(trials):
        begins = readings is None or _first_of_reading(number, readings, trials)
        if begins:
            apart = random.Random(f"distractors {seed} {number}")
            others = make_distractors(distractors, apart)
            stated = [token_ids(tokenizer, fact(*each)) for each in others]
        code = similar_code(others, draw) if others else str(draw.randrange(10_000, 100_000))
        hidden = token_ids(tokenizer, fact(NAME, code))
        filler = _filler(tokens, hidden, stated, len(ids))
        if begins:
            places = [apart.randrange(filler - LOCAL + 1) for _ in stated]
            parts = list(map(Insertion, places, stated))
        if readings is None:
            piece = _piece(ids, filler, draw)
            depth = draw.randrange(filler - LOCAL + 1)
            read = inserted(piece[: filler - LOCAL], [Insertion(depth, hidden), *parts])
            made.append(Trial(read, piece[filler - LOCAL :], code, distractors=others))
            continue
        if begins:
            piece = _piece(ids, min(max(tokens, longest), len(ids)), drawn)[: filler - LOCAL]
            shared = inserted(piece, parts)
        depth = draw.randrange(len(piece) + 1)
        depth += sum(len(part) for place, part in parts if place < depth)
        [(replaced, read)] = edits_around(shared, [Insertion(depth, hidden)], window, draw)
        made.append(Trial(read, _piece(ids, LOCAL, draw), code, shared, replaced, others))
    return made


def _first_of_reading(number: int, readings: int, trials: int) -> bool:
    return number * readings // trials != (number - 1) * readings // trials


def _filler(tokens: int, hidden: list[int], stated: list[list[int]], available: int) -> int:
    """Return how many tokens of the text a trial takes."""
    taken = len(hidden) + sum(map(len, stated))
    if tokens - taken <= LOCAL:
        parts = "fact, distractors, local text" if stated else "fact, local text"
        raise InputError(f"tokens must be more than {LOCAL + taken} ({parts}), got {tokens}")
    if available < tokens - taken:
        raise InputError(
            f"the text has {available:,} tokens, {tokens - taken:,} are needed: add text"
        )
    return tokens - taken


def _piece(ids: list[int], length: int, draw: random.Random) -> list[int]:
    start = draw.randrange(len(ids) - length + 1)
    return ids[start : start + length]
