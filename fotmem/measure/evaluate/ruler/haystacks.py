"""Long texts, and the places in them where something can be hidden."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, pairwise
from random import Random
from typing import Any, NamedTuple

from fotmem.errors import InputError
from fotmem.measure.evaluate.text_edits import Edit, Insertion, edits_around, inserted
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids

NOISE = "\nThe river is wide. The road is long. The night is quiet. On we walk, and home again."
"""Repeated, it is a text without any information."""
SENTENCE = re.compile(r"[.!?][\"'”)\]]*(?=\s)|\n(?=\n)")
"""Where a sentence or a paragraph ends."""
LONG = 400
"""Characters, some hundred tokens, without such an end: there, a needle may stand between lines."""


class Haystack(NamedTuple):
    """A text as token ids."""

    tokens: list[int]
    places: list[int]
    """Where something can be inserted, in order: never in the last tokens, which stay local."""


class HiddenText(NamedTuple):
    """A text in which something is hidden; the fields of `Sample` with the same names."""

    read: list[int]
    local: list[int]
    edits: Sequence[Edit] = ()


class Source:
    """The text of the user, from which samples are made.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    text : str
    """

    def __init__(self, tokenizer: Any, text: str) -> None:
        self.tokenizer, self._text = tokenizer, text

    @cached_property
    def words(self) -> list[str]:
        """The different words of four letters or more."""
        return list(dict.fromkeys(re.findall(r"\b[a-z]{4,}\b", self._text.lower())))

    @cached_property
    def _sentences(self) -> tuple[list[int], list[int]]:
        """Return the tokens of all sentences, and where each begins."""
        cuts = [0, *_ends(self._text), len(self._text)]
        parts = [self._text[a:b] for a, b in pairwise(cuts) if a < b]
        ids = self.tokenizer(parts, add_special_tokens=False, verbose=False).input_ids
        begins = [0, *accumulate(map(len, ids))]
        return [token for each in ids for token in each], begins[:-1]

    def piece(self, length: int, needles: int, draw: Random) -> Haystack:
        """Cut a piece out of the text; with places between sentences, if it has enough of them.

        Raises
        ------
        InputError
            The text is too short.
        """
        ids, begins = self._sentences
        if len(ids) < length:
            raise InputError(f"the text has {len(ids):,} tokens, {length:,} are needed: add text")
        start = begins[bisect_right(begins, draw.randrange(len(ids) - length + 1)) - 1]
        last = start + length - LOCAL
        between = begins[bisect_left(begins, start) : bisect_right(begins, last)]
        places = [begin - start for begin in between]
        if len(places) < needles:
            places = list(range(length - LOCAL + 1))
        return Haystack(ids[start : start + length], places)

    def noise(self, length: int) -> Haystack:
        """Repeat the same sentences as often as they fit."""
        unit = token_ids(self.tokenizer, NOISE)
        return joined([unit] * (length // len(unit)))


def _ends(text: str) -> Iterator[int]:
    """Yield where sentences end, and lines where no sentence ends for long."""
    last = 0
    for end in chain((found.end() for found in SENTENCE.finditer(text)), [len(text)]):
        while 0 < (line := text.find("\n", last + LONG, end) + 1) < end:
            yield line
            last = line
        yield end
        last = end


def joined(parts: list[list[int]]) -> Haystack:
    """Join parts, with places between them."""
    ends = [0, *accumulate(map(len, parts))]
    return Haystack(
        [token for part in parts for token in part],
        [end for end in ends if end <= ends[-1] - LOCAL],
    )


def hide(haystack: Haystack, hidden: list[list[int]], draw: Random) -> list[Insertion]:
    """Draw different places for texts that are hidden, in their order."""
    places = sorted(draw.sample(haystack.places, len(hidden)))
    return list(map(Insertion, places, hidden))


def hidden_texts(
    begin: list[int],
    haystack: Haystack,
    hidden: Sequence[Sequence[Insertion]],
    window: int,
    draws: Sequence[Random],
) -> list[HiddenText]:
    """Return a text for each trial: `begin`, and the haystack with what that trial hides.

    Several trials share the text without anything hidden in it; each edits windows of it.
    """
    whole = [*begin, *haystack.tokens]
    moved = [[Insertion(len(begin) + place, part) for place, part in some] for some in hidden]
    if len(moved) == 1:
        text = inserted(whole, moved[0])
        return [HiddenText(text[:-LOCAL], text[-LOCAL:])]
    read, local = whole[:-LOCAL], whole[-LOCAL:]
    return [
        HiddenText(read, local, edits_around(read, some, window, draw))
        for some, draw in zip(moved, draws, strict=True)
    ]


def check_room(haystack: Haystack, needles: int, tokens: int) -> None:
    """Refuse a text with too few places.

    Raises
    ------
    InputError
        `tokens`, the length of the whole sample, is too small.
    """
    if len(haystack.places) < needles:
        raise InputError(
            f"this task hides {needles} needles, and {tokens:,} tokens have places for "
            f"{len(haystack.places)}: take more tokens"
        )
