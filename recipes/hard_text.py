"""A text in which it is hard to find anything, and the questions about what was hidden in it.

Pieces of several texts take turns, numbers stand everywhere, and half of the hidden pass keys look
like one another.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from random import Random
from typing import Any, NamedTuple

from fotmem.errors import InputError
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids
from fotmem.tasks import pass_key
from fotmem.tasks.distractors import Distractor, make_distractors
from fotmem.tasks.facts import QUESTIONS, STATEMENTS, Fact, Facts
from fotmem.tasks.numbers import number
from fotmem.tasks.pass_key import split_answer

TOKENS, TURN = 9600, 1200
"""Tokens of the piece of each text, and of a part of it that stands together."""
TOKENS_PER_NUMBER = 48
PASS_KEYS, FACTS, QUOTATIONS = 40, 64, 40
QUOTED = 8
"""Tokens of a quotation that are asked for."""
SENTENCE = re.compile(r"(?<=[.!?]\s)[^\W\d_](?:[^.!?\n]|\n(?!\s*\n))+[.!?](?=\s)")
WORDS = range(12, 31)
"""Words that a quoted sentence may have."""
QUOTATION = '\nAs it says above: "{}'
OTHER_QUESTIONS = ("Does nobody know {key}? I would say", "Here is what I noted of {key}:")
"""Wordings of neither the training nor `fotmem eval facts`, which reports what was chosen."""


class Question(NamedTuple):
    """What a model is given, and the answer, as token ids."""

    local: list[int]
    """Text before the question."""
    asked: list[int]
    answer: list[int]


class HardText(NamedTuple):
    """The text, as token ids, and the questions about it."""

    ids: list[int]
    pass_keys: list[Question]
    trained_wording: list[Question]
    """Facts, in questions of the training."""
    other_wording: list[Question]
    """The same facts, in other questions."""
    quotations: list[Question]
    """Sentences of the text, of which the first half is given."""


def make_hard_text(tokenizer: Any, texts: Mapping[str, list[int]], seed: int) -> HardText:
    """Make a text of pieces of several texts, which are token ids.

    Raises
    ------
    InputError
        There are too few sentences to quote.
    """
    draw = Random(f"hard text {seed}")
    pieces = [_with_numbers(tokenizer, ids, draw) for ids in texts.values()]
    keys = make_distractors(PASS_KEYS, draw)
    facts = list(islice(_facts(keys, seed), FACTS))
    stated = [pass_key.fact(*key) for key in keys]
    stated += [f" {fact.say(draw.choice(STATEMENTS))}" for fact in facts]
    draw.shuffle(stated)
    hidden = [token_ids(tokenizer, each) for each in stated]
    ids = _inserted(_in_turns(pieces), hidden, draw)
    asking = _Asking(tokenizer, pieces, draw)
    sentences = _sentences(
        tokenizer.decode(ids), [*(key.name for key in keys), *(fact.key for fact in facts)]
    )
    return HardText(
        ids,
        [asking.question(pass_key.question(key.name), key.code) for key in keys],
        [asking.fact(each, QUESTIONS) for each in facts],
        [asking.fact(each, OTHER_QUESTIONS) for each in facts],
        [asking.quotation(*each) for each in draw.sample(sentences, QUOTATIONS)],
    )


class _Asking:
    """Makes questions, each behind some text, which influences the answer."""

    def __init__(self, tokenizer: Any, pieces: list[list[int]], draw: Random) -> None:
        self._tokenizer, self._pieces, self._draw = tokenizer, pieces, draw

    def question(self, question: str, answer: str) -> Question:
        words, expected = split_answer(self._tokenizer, question, answer)
        return Question(self._local(), words, expected)

    def fact(self, fact: Fact, questions: Sequence[str]) -> Question:
        return self.question(f" {fact.say(self._draw.choice(questions))}", fact.answer)

    def quotation(self, half: str, rest: str) -> Question:
        given = token_ids(self._tokenizer, QUOTATION.format(half))
        return Question(self._local(), given, token_ids(self._tokenizer, rest)[:QUOTED])

    def _local(self) -> list[int]:
        start = self._draw.randrange(TOKENS - LOCAL)
        return self._draw.choice(self._pieces)[start : start + LOCAL]


def _with_numbers(tokenizer: Any, ids: list[int], draw: Random) -> list[int]:
    """Cut a piece out of a text, and put numbers into it."""
    start = draw.randrange(len(ids) - TOKENS + 1)
    numbers = [token_ids(tokenizer, f" {number(draw)}") for _ in range(TOKENS // TOKENS_PER_NUMBER)]
    return _inserted(ids[start : start + TOKENS], numbers, draw)[:TOKENS]


def _in_turns(pieces: list[list[int]]) -> list[int]:
    return [
        token
        for start in range(0, TOKENS, TURN)
        for piece in pieces
        for token in piece[start : start + TURN]
    ]


def _inserted(text: list[int], parts: list[list[int]], draw: Random) -> list[int]:
    """Insert parts at random places."""
    text = list(text)
    places = sorted((draw.randrange(len(text) + 1) for _ in parts), reverse=True)
    for place, part in zip(places, parts, strict=True):
        text[place:place] = part
    return text


def _facts(keys: list[Distractor], seed: int) -> Iterator[Fact]:
    """Yield facts about numbers, none about what a person with a pass key has."""
    people = [key.name.partition(" of ")[2] for key in keys]
    every = Facts(seed + 2 * 10**6)  # `fotmem eval facts` has others
    for fact in map(every.__getitem__, count()):
        if fact.answer.isdigit() and not any(person in fact.key for person in people):
            yield fact


def _sentences(text: str, hidden: list[str]) -> list[tuple[str, str]]:
    """Return the halves of whole sentences that state nothing hidden; the first occurs once."""
    sentences = []
    for sentence in SENTENCE.findall(text):
        spaces = [space.start() for space in re.finditer(r"\s+", sentence)]
        half = spaces[len(spaces) // 2] if spaces else 0
        if (
            len(sentence.split()) in WORDS
            and text.count(sentence[:half]) == 1
            and not any(each in sentence for each in hidden)
        ):
            sentences.append((sentence[:half], sentence[half:]))
    if len(sentences) < QUOTATIONS:
        raise InputError(
            f"the texts have {len(sentences)} sentences of {WORDS[0]} to {WORDS[-1]} words whose "
            f"first half occurs once, in {TOKENS:,} tokens each, and {QUOTATIONS} are needed: add "
            "texts in prose"
        )
    return sentences
