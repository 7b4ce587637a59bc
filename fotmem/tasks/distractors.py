"""Statements that look like the pass key's: other keys, other names, other numbers."""

from __future__ import annotations

import random
from typing import NamedTuple

from fotmem.tasks.facts import ADJECTIVES, FIRST_NAMES, NUMBERED, SURNAMES
from fotmem.tasks.pass_key import NAME


class Distractor(NamedTuple):
    """A key that is not asked for, such as "locker code of Nora Weber", and its number."""

    name: str
    code: str


def make_distractors(number: int, draw: random.Random) -> list[Distractor]:
    """Invent distractors; of any two neighbours one is a pass key: old, spare, of somebody.

    None is called just "pass key", and no two have the same number: the question has one answer.
    There are names for 3,600.
    """
    people = [f"{first} {last}" for first in FIRST_NAMES.split() for last in SURNAMES.split()]
    codes = draw.sample(range(10_000, 100_000), number)
    made = []
    for place, (person, code) in enumerate(zip(draw.sample(people, number), codes, strict=True)):
        adjective, thing = draw.choice(ADJECTIVES.split()), draw.choice(NUMBERED)
        key = f"{adjective} {NAME}" if place % 2 else thing
        made.append(Distractor(f"{key} of {person}", str(code)))
    return made


def similar_code(distractors: list[Distractor], draw: random.Random) -> str:
    """Return a number that differs from that of one distractor in one or two digits.

    It is the number of none of them.
    """
    taken = {each.code for each in distractors}
    while True:
        digits = list(draw.choice(distractors).code)
        for place in draw.sample(range(len(digits)), draw.choice((1, 2))):
            digits[place] = draw.choice([each for each in "0123456789" if each != digits[place]])
        code = "".join(digits)
        if code not in taken and code[0] != "0":
            return code
