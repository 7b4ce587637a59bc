"""Needles in a haystack: values are hidden under keys, and asked for by some of the keys."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from fotmem.errors import InputError
from fotmem.measure.evaluate.ruler.haystacks import Haystack, Source, check_room, hide, joined
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.words import Kind, invent, several
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids

NEW_TOKENS = 128
INTRODUCTION = "Magic {kind} are hidden in the text below. Keep them in mind, you will need them.\n"
NEEDLE = "A magic {one} of {key} is {value}."
QUESTION = "\nWhat is the magic {one} of {keys} in the text above? The magic {one} of {keys} is"
QUESTION_OF_SEVERAL = (
    "\nWhat are all the magic {kind} of {keys} in the text above? The magic {kind} of {keys} are"
)
ALIKE = 3
"""Other needles beside the right one, where keys must be told apart within the window."""


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

    def __call__(self, source: Source, tokens: int, draw: Random) -> Sample:
        """Make a sample of this length, or slightly less."""
        keys = several(self.key, self.keys, draw)
        values = several(self.value, self.keys * self.values, draw)
        pairs = [(key, values[i :: self.keys]) for i, key in enumerate(keys)]
        asked = pairs[: self.asked]
        introduction = token_ids(source.tokenizer, INTRODUCTION.format(kind=self.value))
        question = self._question(source, [key for key, _ in asked])
        needles = [self._needle(source, key, value) for key, some in pairs for value in some]
        fixed = len(introduction) + sum(map(len, needles)) + len(question) + NEW_TOKENS
        others = self._others(source, keys, tokens - fixed, draw)
        hay = self._hay(source, others, tokens - fixed, len(needles), draw)
        check_room(hay, len(needles), tokens)
        seen = needles + others[: ALIKE if self.haystack == "needles" else 0]
        draw.shuffle(needles)
        text = introduction + hide(hay, needles, draw)
        return Sample(
            read=text[:-LOCAL],
            local=text[-LOCAL:],
            question=question,
            evidence=introduction
            + [token for each in draw.sample(seen, len(seen)) for token in each],
            answers=[value for _, some in asked for value in some],
            new_tokens=NEW_TOKENS,
        )

    def _needle(self, source: Source, key: str, value: str) -> list[int]:
        said = NEEDLE.format(one=self.value[:-1], key=key, value=value)
        return token_ids(source.tokenizer, (" " if self.haystack == "text" else "\n") + said)

    def _question(self, source: Source, keys: list[str]) -> list[int]:
        words = QUESTION if self.asked * self.values == 1 else QUESTION_OF_SEVERAL
        said = " and ".join(filter(None, [", ".join(keys[:-1]), keys[-1]]))
        return token_ids(
            source.tokenizer, words.format(one=self.value[:-1], kind=self.value, keys=said)
        )

    def _others(self, source: Source, keys: list[str], room: int, draw: Random) -> list[list[int]]:
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
            raise InputError(f"the needles leave {room} tokens for a text: take more tokens")
        return source.piece(room, needles, draw)
