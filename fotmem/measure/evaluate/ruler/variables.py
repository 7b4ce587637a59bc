"""Variable tracking: variables get their values from each other, at places far apart."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

from fotmem.measure.evaluate.ruler.haystacks import Source, check_room, hide
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.words import variables
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids

NEW_TOKENS = 30
HOPS = 4
LETTERS, LETTERS_OF_EXAMPLE = 5, 3
INTRODUCTION = "Variables get values in the text below. Keep track of them.\n"
QUESTION = (
    "\nQuestion: Which variables in the text above have the value {value}, directly or through "
    "other variables?\nAnswer: These {number} variables have the value {value}:"
)


def track_variables(source: Source, tokens: int, draw: Random) -> Sample:
    """Hide a chain of five variables in noise; the first gets a number, each other the one before.

    As in the paper, one example with its answer comes before the question.
    """
    names, value, chain = _chain(draw, LETTERS)
    known, number, example = _chain(draw, LETTERS_OF_EXAMPLE)
    shown = "".join(example) + _question(number) + " " + ", ".join(known) + "\n"
    question = token_ids(source.tokenizer, shown + _question(value))
    introduction = token_ids(source.tokenizer, INTRODUCTION)
    hidden = [token_ids(source.tokenizer, each) for each in chain]
    fixed = len(introduction) + sum(map(len, hidden)) + len(question) + NEW_TOKENS
    hay = source.noise(tokens - fixed)
    check_room(hay, len(hidden), tokens)
    text = introduction + hide(hay, hidden, draw)
    return Sample(
        read=text[:-LOCAL],
        local=text[-LOCAL:],
        question=question,
        evidence=introduction + [token for each in hidden for token in each],
        answers=names,
        new_tokens=NEW_TOKENS,
    )


def _chain(draw: Random, letters: int) -> tuple[list[str], str, list[str]]:
    """Return the names, the value, and the assignments in their order."""
    names = list(islice(variables(draw, letters), HOPS + 1))
    value = str(draw.randrange(10_000, 100_000))
    later = [f"\nVAR {name} = VAR {before}" for before, name in pairwise(names)]
    return names, value, [f"\nVAR {names[0]} = {value}", *later]


def _question(value: str) -> str:
    return QUESTION.format(value=value, number=HOPS + 1)
