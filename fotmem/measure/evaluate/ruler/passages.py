"""Questions about passages: each tells of a person, and some of these people are much alike.

The paper takes passages and questions from SQuAD and HotpotQA. These are invented, so that nothing
is downloaded, and so that no model knows the answers by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from random import Random

from fotmem.errors import InputError
from fotmem.measure.evaluate.ruler.haystacks import Source
from fotmem.measure.evaluate.ruler.people import Person, invent_person
from fotmem.measure.evaluate.ruler.sample import Sample
from fotmem.measure.reading import LOCAL
from fotmem.models.tokens import token_ids

NEW_TOKENS = 32
INTRODUCTION = "Questions will be asked about the passages below.\n"
QUESTION = "\nAnswer in few words.\nQuestion: {asked}\nAnswer:"
ALIKE = 4
"""People with the same first name as the right one, and as many with the same surname."""
MOST = 500
"""Samples that share a text: so many people have different shops, of some 2,600 that can be."""


def answer_from_passages(
    source: Source, tokens: int, draws: Sequence[Random], window: int
) -> list[Sample]:
    """Make passages about people, and ask one question about one of them for each sample.

    Samples share a text with the passages of all of them, if those about people who are alike fit,
    too. Otherwise each has a text of its own.
    """
    some = [copy(draw) for draw in draws]
    together = _samples(source, tokens, some) if len(draws) <= MOST else []
    return together or [sample for draw in draws for sample in _samples(source, tokens, [draw])]


def _samples(source: Source, tokens: int, draws: Sequence[Random]) -> list[Sample]:
    """Make samples that share a text; none if it has no room for several."""
    rights = _rights(draws)
    asked = [draw.choice(one.questions()) for one, draw in zip(rights, draws, strict=True)]
    questions = [token_ids(source.tokenizer, QUESTION.format(asked=each)) for each, _ in asked]
    begin = token_ids(source.tokenizer, INTRODUCTION)
    told = [token_ids(source.tokenizer, one.tell()) for one in rights]
    fixed = len(begin) + max(map(len, questions)) + sum(map(len, told)) + NEW_TOKENS
    passages = _others(source, rights, tokens - fixed, draws[0])
    if len(draws) > 1 and len(passages) < 2 * ALIKE * len(draws):
        return []
    if not passages:
        raise InputError(
            f"no further passage fits into {tokens:,} tokens, {fixed:,} of which the question and "
            "its passage take: take more tokens"
        )
    for passage, draw in zip(told, draws, strict=True):
        passages.insert(draw.randrange(len(passages)), passage)  # never the last
    text = begin + [token for each in passages for token in each]
    read, local = text[:-LOCAL], text[-LOCAL:]
    return [
        Sample(
            read=read,
            local=local,
            question=question,
            evidence=begin + passage,
            answers=[answer],
            new_tokens=NEW_TOKENS,
            one_suffices=True,
        )
        for (_, answer), question, passage in zip(asked, questions, told, strict=True)
    ]


def _rights(draws: Sequence[Random]) -> list[Person]:
    """Invent the person of each trial; no two have the same name, or a shop that answers both."""
    rights: list[Person] = []
    for draw in draws:
        person = invent_person(draw)
        while _is_mistakable(person, rights):
            person = invent_person(draw)
        rights.append(person)
    return rights


def _is_mistakable(person: Person, rights: Sequence[Person]) -> bool:
    """Whether a question about one of them might be about this person, too."""
    return any(
        person.name == right.name or (person.town, person.trade) == (right.town, right.trade)
        for right in rights
    )


def _others(source: Source, rights: Sequence[Person], room: int, draw: Random) -> list[list[int]]:
    """Tell of other people, as many as fit, those who are alike at random places."""
    made: list[list[int]] = []
    while True:
        turn, which = divmod(len(made), len(rights))
        like = rights[which] if turn < 2 * ALIKE else None
        person = invent_person(draw, like, turn % 2 == 0)
        if _is_mistakable(person, rights):
            continue
        made.append(token_ids(source.tokenizer, person.tell()))
        room -= len(made[-1])
        if room < 0:
            break
    return draw.sample(made[:-1], len(made) - 1)
