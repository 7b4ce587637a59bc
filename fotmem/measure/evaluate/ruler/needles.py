"""Needles in a haystack: values are hidden under keys, and asked for by some of the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Literal, NamedTuple

from fotmem.errors import InputError
from fotmem.measure.evaluate.ruler.haystacks import (
    Haystack,
    Source,
    check_room,
    hidden_texts,
    hide,
    joined,
)
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.words import Kind, invent, several
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids
from fotmem.tasks.facts import listed

NEW_TOKENS = 128
INTRODUCTION = "Magic {kind} are hidden in the text below. Keep them in mind, you will need them.\n"
NEEDLE = "A magic {one} of {key} is {value}."
QUESTION = "\nWhat is the magic {one} of {keys} in the text above? The magic {one} of {keys} is"
QUESTION_OF_SEVERAL = (
    "\nWhat are all the magic {kind} of {keys} in the text above? The magic {kind} of {keys} are"
)
ALIKE = 3
"""Other needles beside the right one, where keys must be told apart within the window."""


class _Hidden(NamedTuple):
    """What a trial hides, and asks for."""

    keys: list[str]
    needles: list[list[int]]
    question: list[int]
    answers: list[str]


@dataclass(frozen=True)
class NeedleTask:
    """Hides needles in a text.

    Parameters
    ----------
    haystack : {"noise", "text", "needles"}
        Where they are hidden: in the same sentences again and again, in the user's text, or among
        needles with other keys.
    key, value : {"words", "numbers", "uuids"}
        What keys and values are.
    keys, values, asked : int
        Number of hidden keys, of values of each, and of keys that are asked for.
    """

    haystack: Literal["noise", "text", "needles"]
    key: Kind = "words"
    value: Kind = "numbers"
    keys: int = 1
    values: int = 1
    asked: int = 1

    def __call__(
        self, source: Source, tokens: int, draws: Sequence[Random], window: int
    ) -> list[Sample]:
        """Make samples of this length, or slightly less, which share a haystack.

        Needles among needles are all in the text, with different keys. Otherwise each sample hides
        its own needles, and the text of the others has none.
        """
        made = self._hidden(source, draws)
        begin = token_ids(source.tokenizer, INTRODUCTION.format(kind=self.value))
        lengths = [sum(map(len, one.needles)) for one in made]
        needles = sum(lengths) if self.haystack == "needles" else max(lengths)
        room = tokens - len(begin) - needles - max(len(one.question) for one in made) - NEW_TOKENS
        others = self._others(source, {key for one in made for key in one.keys}, room, draws[0])
        hay = self._hay(source, others, room, self.keys * self.values, draws[0])
        check_room(hay, self.keys * self.values, tokens)
        places = [
            hide(hay, _shuffled(one.needles, draw), draw)
            for one, draw in zip(made, draws, strict=True)
        ]
        if self.haystack == "needles":
            texts = hidden_texts(begin, hay, [[*chain(*places)]], window, draws) * len(made)
        else:
            texts = hidden_texts(begin, hay, places, window, draws)
        return [
            Sample(
                **text._asdict(),
                question=one.question,
                evidence=begin + self._evidence(one, others, draw),
                answers=one.answers,
                new_tokens=NEW_TOKENS,
            )
            for one, text, draw in zip(made, texts, draws, strict=True)
        ]

    def _hidden(self, source: Source, draws: Sequence[Random]) -> list[_Hidden]:
        """Invent the needles of each trial; no two trials have a key in common."""
        made: list[_Hidden] = []
        for draw in draws:
            known = {key for one in made for key in one.keys}
            keys = several(self.key, self.keys, draw, known)
            values = several(self.value, self.keys * self.values, draw)
            pairs = [(key, values[i :: self.keys]) for i, key in enumerate(keys)]
            asked = pairs[: self.asked]
            needles = [self._needle(source, key, value) for key, some in pairs for value in some]
            question = self._question(source, [key for key, _ in asked])
            answers = [value for _, some in asked for value in some]
            made.append(_Hidden(keys, needles, question, answers))
        return made

    def _evidence(self, one: _Hidden, others: list[list[int]], draw: Random) -> list[int]:
        """Return the needles in random order; beside them others, where they are the haystack."""
        seen = one.needles + others[: ALIKE if self.haystack == "needles" else 0]
        return [token for each in draw.sample(seen, len(seen)) for token in each]

    def _needle(self, source: Source, key: str, value: str) -> list[int]:
        said = NEEDLE.format(one=self.value[:-1], key=key, value=value)
        return token_ids(source.tokenizer, (" " if self.haystack == "text" else "\n") + said)

    def _question(self, source: Source, keys: list[str]) -> list[int]:
        words = QUESTION if self.asked * self.values == 1 else QUESTION_OF_SEVERAL
        said = words.format(one=self.value[:-1], kind=self.value, keys=listed(keys))
        return token_ids(source.tokenizer, said)

    def _others(self, source: Source, keys: set[str], room: int, draw: Random) -> list[list[int]]:
        """Make needles with other keys, as many as fit, where they are the haystack."""
        made: list[list[int]] = []
        while self.haystack == "needles" and room > 0:
            key, value = invent(self.key, draw), invent(self.value, draw)
            if key not in keys:
                made.append(self._needle(source, key, value))
                room -= len(made[-1])
        return made[:-1] if room < 0 else made

    def _hay(
        self, source: Source, others: list[list[int]], room: int, needles: int, draw: Random
    ) -> Haystack:
        if self.haystack == "needles":
            return joined(others)
        if self.haystack == "noise":
            return source.noise(room)
        if room <= LOCAL:
            raise InputError(
                f"the needles leave {max(room, 0)} tokens for a text, {LOCAL + 1} are needed: "
                "take more tokens"
            )
        return source.piece(room, needles, draw)


def _shuffled(needles: list[list[int]], draw: Random) -> list[list[int]]:
    needles = [*needles]
    draw.shuffle(needles)
    return needles
