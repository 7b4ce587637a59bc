"""Numbers as texts have them, to put into a text in which another number is looked for."""

from __future__ import annotations

import random

FORMS = (
    "({year})",
    "in {year},",
    "{year}-{later}",
    "({month}/{day}/{year})",
    "[p. {page}]",
    "pp. {page}-{later_page}",
    "No. {number}",
    "number {number}",
    "key {number}",
    "is {number}",
    "was {number}.",
    ": {number}",
    "{number}",
    "{number:,}",
    "{percent}%",
    "{percent}.{number}",
)
DIGITS = 6
"""At most, of ``{number}``."""


def number(draw: random.Random) -> str:
    """Draw a number: a year, a page, an amount, the end of a statement."""
    year, page = draw.randrange(1700, 2030), draw.randrange(1, 1000)
    return draw.choice(FORMS).format(
        year=year,
        later=year + draw.randrange(1, 20),
        month=draw.randrange(1, 13),
        day=draw.randrange(1, 29),
        page=page,
        later_page=page + draw.randrange(1, 50),
        number=draw.randrange(10 ** draw.randrange(1, DIGITS + 1)),
        percent=draw.randrange(100),
    )
