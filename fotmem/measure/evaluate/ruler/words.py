"""Words, numbers and names that the tasks are made of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from random import Random
from string import ascii_lowercase, ascii_uppercase
from typing import Literal
from uuid import UUID

from fotmem.errors import InputError

Kind = Literal["words", "numbers", "uuids"]
CODED = 6
"""Letters of a coded word."""
ADJECTIVES = (
    "amber ancient bitter bold brave brief bright brisk calm careful cheerful clever cloudy "
    "cold crooked curious damp dark dear deep distant dry dusty eager early empty faint famous "
    "fierce fine foggy fond fresh gentle giant glad golden grand grey happy harsh hasty heavy "
    "hollow humble icy idle jolly keen kind large late lazy light lively lonely long loud lucky "
    "mellow merry mild misty modest narrow neat noble noisy odd old pale patient plain polite "
    "proud quick quiet rapid rare rough round rusty sharp shiny shy silent simple slender slow "
    "smooth soft solid sour steady steep strange strong sunny swift tall tame tender thin tidy "
    "tiny vast warm wide wild wise young"
)
NOUNS = (
    "anchor apple arrow axe badger ball barn barrel basket beach bell bench bird boat bottle "
    "bridge brook broom bucket button cabin camel candle canyon castle cellar chain chair "
    "cheese cherry church clock cloud coat copper corner cottage cradle cup curtain desert door "
    "dragon drum eagle falcon farm feather fence field flute forest fountain fox garden gate "
    "glove goat hammer harbour harp hat hedge hill horse island ivory jacket jar kettle kite "
    "ladder lake lamp lantern leaf lemon letter lion market meadow mill mirror moon mountain "
    "needle oak orchard otter oven owl paddle palace parrot pepper piano pillow pine pocket "
    "pond quarry rabbit raven ribbon river robin rope saddle sail salmon ship shovel spoon "
    "stable star stone table teapot tiger tower trumpet tunnel turtle valley village violin "
    "wagon walnut window wolf"
)


def pick(words: str, draw: Random) -> str:
    """Draw one of several words, which are separated by spaces."""
    return draw.choice(words.split())


def invent(kind: Kind, draw: Random) -> str:
    """Invent a word such as ``brave-otter``, a number of seven digits, or a UUID."""
    if kind == "words":
        return f"{pick(ADJECTIVES, draw)}-{pick(NOUNS, draw)}"
    if kind == "numbers":
        return str(draw.randrange(10**6, 10**7))
    return str(UUID(int=draw.getrandbits(128), version=4))


def several(kind: Kind, number: int, draw: Random, known: Collection[str] = ()) -> list[str]:
    """Invent this many different ones, none of them known.

    Raises
    ------
    InputError
        There are not so many.
    """
    most = len(ADJECTIVES.split()) * len(NOUNS.split()) if kind == "words" else 9 * 10**6
    if number + len(known) > most:
        raise InputError(
            f"expected at most {most:,} different {kind} in one text, got {number + len(known):,}: "
            "ask less about it, or read more texts (--readings)"
        )
    found: dict[str, None] = {}
    while len(found) < number:
        word = invent(kind, draw)
        if word not in known:
            found[word] = None
    return list(found)


def coded_words(draw: Random) -> Iterator[str]:
    """Invent words of six letters, all different, without end."""
    return _letters(draw, ascii_lowercase, CODED)


def variables(draw: Random, letters: int) -> Iterator[str]:
    """Invent names of capital letters, all different, without end."""
    return _letters(draw, ascii_uppercase, letters)


def _letters(draw: Random, alphabet: str, length: int) -> Iterator[str]:
    known = set()
    while True:
        word = "".join(draw.choices(alphabet, k=length))
        if word not in known:
            known.add(word)
            yield word
