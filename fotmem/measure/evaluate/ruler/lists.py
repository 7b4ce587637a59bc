"""Common and frequent words: which words occur most often in a long list."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, islice
from random import Random

from fotmem.errors import InputError
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.evaluate.ruler.words import coded_words
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids

COMMON = 10
REPEATED, REPEATED_IN_SHORT, REPEATED_IN_EXAMPLE = (30, 3), (6, 1), (3, 1)
"""How often common and other words occur: from `LONG` tokens on, in shorter lists, in examples."""
LONG = 4096
COMMON_TOKENS = 120
COMMON_INTRODUCTION = "Below is a numbered list of words, some of which come again more often.\n"
COMMON_QUESTION = (
    "\nQuestion: Which 10 words occur most often in the list above?\n"
    "Answer: The 10 words that occur most often are:"
)
FREQUENT = 3
FREQUENT_TOKENS = 50
FREQUENT_INTRODUCTION = "The text below is in code words. Some of them come again more often.\n"
FREQUENT_QUESTION = (
    "\nQuestion: Which 3 code words occur most often in the text above, apart from the dots?\n"
    "Answer: The 3 code words that occur most often are:"
)
DOTS = "..."
TOKENS_PER_WORD = 50
"""The longer a text, the more different code words it has: one for so many tokens."""
SHORT = 100
"""Words in a text that fits the window: the four most frequent differ in number."""


def find_common_words(source: Source, tokens: int, draw: Random) -> Sample:
    """Make a list in which ten words of the user's text occur more often than all others.

    As in the paper, one short example with its answer comes before the question. Coded words follow
    where the text has no more words.
    """
    drawn = draw.sample(source.words, len(source.words))
    drawn = [word for word in drawn if word not in COMMON_QUESTION]  # else an echo is right
    known = set(source.words)
    words = chain(drawn, (word for word in coded_words(draw) if word not in known))
    example, common = list(islice(words, 2 * COMMON)), list(islice(words, COMMON))
    shown = "".join(_entries(example, REPEATED_IN_EXAMPLE, draw)) + COMMON_QUESTION
    shown += "".join(_numbered(example[:COMMON])) + "\n"
    question = token_ids(source.tokenizer, shown + COMMON_QUESTION)
    introduction = token_ids(source.tokenizer, COMMON_INTRODUCTION)
    room = tokens - len(introduction) - len(question) - COMMON_TOKENS
    repeated = REPEATED if tokens >= LONG else REPEATED_IN_SHORT
    others = _fitting(source, common, words, repeated, room)
    entries = "".join(_entries([*common, *others], repeated, draw))
    text = introduction + token_ids(source.tokenizer, entries)
    short = "".join(_entries([*common, *others[:COMMON]], REPEATED_IN_EXAMPLE, draw))
    return Sample(
        read=text[:-LOCAL],
        local=text[-LOCAL:],
        question=question,
        evidence=introduction + token_ids(source.tokenizer, short),
        answers=common,
        new_tokens=COMMON_TOKENS,
    )


def _fitting(
    source: Source, common: list[str], words: Iterator[str], repeated: tuple[int, int], room: int
) -> list[str]:
    """Take as many other words as fit, each as often as it occurs, with their numbers."""
    numbers = [f" {number}." for number in range(1, max(2, room // 2))]
    lengths = map(len, source.tokenizer(numbers, add_special_tokens=False).input_ids)
    of_numbers = [0, *accumulate(lengths)]
    entries = repeated[0] * COMMON
    used = repeated[0] * sum(len(token_ids(source.tokenizer, f" {word}")) for word in common)
    found: list[str] = []
    for word in words:
        entries += repeated[1]
        used += repeated[1] * len(token_ids(source.tokenizer, f" {word}"))
        if entries >= len(of_numbers) or used + of_numbers[entries] > room:
            break
        found.append(word)
    if len(found) < COMMON:
        raise InputError(
            f"{COMMON} common words and as many others do not fit into the {max(room, 0):,} tokens "
            "that are left for them: take more tokens"
        )
    return found


def _entries(words: list[str], repeated: tuple[int, int], draw: Random) -> list[str]:
    """Repeat the common words, which come first, and the others; number them in random order."""
    entries = words[:COMMON] * repeated[0] + words[COMMON:] * repeated[1]
    draw.shuffle(entries)
    return _numbered(entries)


def _numbered(words: list[str]) -> list[str]:
    return [f" {number}. {word}" for number, word in enumerate(words, 1)]


def find_frequent_words(source: Source, tokens: int, draw: Random) -> Sample:
    """Make a text of coded words whose frequencies are those of a zeta distribution (exponent 2).

    The most frequent word is dots, the next three are the answer.
    """
    words = [DOTS, *islice(coded_words(draw), max(2 * FREQUENT, tokens // TOKENS_PER_WORD))]
    introduction = token_ids(source.tokenizer, FREQUENT_INTRODUCTION)
    question = token_ids(source.tokenizer, FREQUENT_QUESTION)
    room = tokens - len(introduction) - len(question) - FREQUENT_TOKENS
    costs = [len(token_ids(source.tokenizer, f" {word}")) for word in words]

    def length(number: int) -> int:
        return sum(n * cost for n, cost in zip(_counts(number, len(words)), costs, strict=True))

    number = bisect_right(range(max(0, 2 * room)), room, key=length) - 1
    if number < SHORT:
        raise InputError(
            f"{SHORT} words do not fit into the {max(room, 0):,} tokens that are left for them: "
            "take more tokens"
        )
    text = introduction + _coded(source, words, number, draw)
    return Sample(
        read=text[:-LOCAL],
        local=text[-LOCAL:],
        question=question,
        evidence=introduction + _coded(source, words, SHORT, draw),
        answers=words[1 : FREQUENT + 1],
        new_tokens=FREQUENT_TOKENS,
    )


def _counts(number: int, words: int) -> list[int]:
    """Return how often each word occurs among about `number`: in proportion to 1 / rank²."""
    return [int(number * 6 / (math.pi * rank) ** 2) for rank in range(1, words + 1)]


def _coded(source: Source, words: list[str], number: int, draw: Random) -> list[int]:
    counts = _counts(number, len(words))
    every = [
        token_ids(source.tokenizer, f" {word}") for word, n in zip(words, counts, strict=True) if n
    ]
    every = [each for each, n in zip(every, counts, strict=False) for _ in range(n)]
    draw.shuffle(every)
    return [token for word in every for token in word]
