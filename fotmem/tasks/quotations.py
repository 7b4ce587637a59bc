"""Quotations from a text, to be completed: what a reader finds again in any text."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

WORDS = (10, 32)
"""Words of a quotation, at least and at most."""
BEGINNINGS = (
    'As it says above: "{}',
    'We read before: "{}',
    'Quote: "{}',
    'Somebody wrote: "{}',
    'I remember these words: "{}',
    "Question: How does this go on? {}\nAnswer:",
    'The sentence begins with "{}" and goes on with "',
)
"""The beginning of a quotation; its end is the answer."""
GAPS = (
    'Which word is missing in "{}"? The word is',
    "Fill the gap: {}\nAnswer:",
    'Question: What stands in the gap of "{}"?\nAnswer:',
    "In this quotation a word is missing: {} It is",
    'Q: Complete "{}".\nA:',
)
"""A quotation with a gap; the word that fills it is the answer."""
GAP = "___"


class Quotation(NamedTuple):
    """A question about a text, and its answer."""

    asked: str
    answer: str


def make_quotation(text: str, draw: random.Random) -> Quotation | None:
    """Ask for the end of a quotation from a text, or for a word of it.

    Returns None if the text has too few words.
    """
    words = [*re.finditer(r"\S+", text)]
    count = min(draw.randint(*WORDS), len(words))
    if count < WORDS[0]:
        return None
    first = draw.randrange(len(words) - count + 1)
    quoted = words[first : first + count]
    if draw.random() < 0.5:
        middle = draw.randint(count // 3, count - 3)
        begin, end = quoted[0].start(), quoted[-1].end()
        asked = draw.choice(BEGINNINGS).format(text[begin : quoted[middle].start()].rstrip())
        return Quotation(asked, text[quoted[middle].start() : end])
    long = sorted(quoted[2:-2], key=lambda word: -len(word[0].strip(".,;:!?\"'()")))
    word = draw.choice(long[:3])
    left, right = text[quoted[0].start() : word.start()], text[word.end() : quoted[-1].end()]
    return Quotation(draw.choice(GAPS).format(left + GAP + right), word[0].strip(".,;:!?\"'()"))
