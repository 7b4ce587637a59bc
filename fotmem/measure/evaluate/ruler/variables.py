"""Variable tracking: variables get their values from each other, at places far apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from random import Random

from fotmem.measure.evaluate.ruler.haystacks import Source, check_room, hidden_texts, hide
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.words import variables
from fotmem.models.tokens import token_ids

NEW_TOKENS = 30
HOPS = 4
LETTERS, LETTERS_OF_EXAMPLE = 5, 3
INTRODUCTION = "Variables get values in the text below. Keep track of them.\n"
QUESTION = (
    "\nQuestion: Which variables in the text above have the value {value}, directly or through "
    "other variables?\nAnswer: These {number} variables have the value {value}:"
)


def track_variables(
    source: Source, tokens: int, draws: Sequence[Random], window: int
) -> list[Sample]:
    """Hide a chain of five variables in noise; the first gets a number, each other the one before.

    As in the paper, one example with its answer comes before the question. Samples share the
    noise; each hides its own chain, and sees no other.
    """
    chains = [_chain(draw, LETTERS) for draw in draws]
    examples = [_chain(draw, LETTERS_OF_EXAMPLE) for draw in draws]
    questions = [
        token_ids(source.tokenizer, _answered(*example) + _question(value))
        for (_, value, _), example in zip(chains, examples, strict=True)
    ]
    hidden = [[token_ids(source.tokenizer, each) for each in said] for _, _, said in chains]
    begin = token_ids(source.tokenizer, INTRODUCTION)
    longest = max(sum(map(len, some)) for some in hidden) + max(map(len, questions))
    hay = source.noise(tokens - len(begin) - longest - NEW_TOKENS)
    check_room(hay, HOPS + 1, tokens)
    places = [hide(hay, some, draw) for some, draw in zip(hidden, draws, strict=True)]
    texts = hidden_texts(begin, hay, places, window, draws)
    return [
        Sample(
            **text._asdict(),
            question=question,
            evidence=begin + [token for each in some for token in each],
            answers=names,
            new_tokens=NEW_TOKENS,
        )
        for (names, _, _), some, question, text in zip(
            chains, hidden, questions, texts, strict=True
        )
    ]


def _chain(draw: Random, letters: int) -> tuple[list[str], str, list[str]]:
    """Return the names, the value, and the assignments in their order."""
    names = list(islice(variables(draw, letters), HOPS + 1))
    value = str(draw.randrange(10_000, 100_000))
    later = [f"\nVAR {name} = VAR {before}" for before, name in pairwise(names)]
    return names, value, [f"\nVAR {names[0]} = {value}", *later]


def _answered(names: list[str], value: str, chain: list[str]) -> str:
    return "".join(chain) + _question(value) + " " + ", ".join(names) + "\n"


def _question(value: str) -> str:
    return QUESTION.format(value=value, number=HOPS + 1)
