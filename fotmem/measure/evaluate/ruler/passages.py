"""Questions about passages: each tells of a person, and some of these people are much alike.

The paper takes passages and questions from SQuAD and HotpotQA. These are invented, so that nothing
is downloaded, and so that no model knows the answers by itself.
"""

from __future__ import annotations

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


def answer_from_passages(source: Source, tokens: int, draw: Random) -> Sample:
    """Make passages about people, and ask one question about one of them."""
    right = invent_person(draw)
    asked, answer = draw.choice(right.questions())
    question = token_ids(source.tokenizer, QUESTION.format(asked=asked))
    introduction = token_ids(source.tokenizer, INTRODUCTION)
    told = token_ids(source.tokenizer, right.tell())
    room = tokens - len(introduction) - len(question) - len(told) - NEW_TOKENS
    passages = _others(source, right, room, draw)
    passages.insert(draw.randrange(len(passages)), told)  # never the last
    text = introduction + [token for each in passages for token in each]
    return Sample(
        read=text[:-LOCAL],
        local=text[-LOCAL:],
        question=question,
        evidence=introduction + told,
        answers=[answer],
        new_tokens=NEW_TOKENS,
        one_suffices=True,
    )


def _others(source: Source, right: Person, room: int, draw: Random) -> list[list[int]]:
    """Tell of other people, as many as fit, those who are alike at random places."""
    made: list[list[int]] = []
    while True:
        person = invent_person(draw, right if len(made) < 2 * ALIKE else None, len(made) % 2 == 0)
        if person.name == right.name or (person.town, person.trade) == (right.town, right.trade):
            continue
        made.append(token_ids(source.tokenizer, person.tell()))
        room -= len(made[-1])
        if room < 0:
            break
    if len(made) <= 1:
        raise InputError("passages take more tokens: take more")
    return draw.sample(made[:-1], len(made) - 1)
