"""Documents of the distraction evaluation: pieces of a text, some with a hidden fact."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from fotmem.errors import InputError, OptionError
from fotmem.measure.evaluate.facts import make_facts
from fotmem.measure.reading import LOCAL, OVERLAP
from fotmem.models.tokens import token_ids
from fotmem.tasks.pass_key import split_answer


class Document(NamedTuple):
    """A piece of text: its middle is held in memory, its end is the query."""

    before: list[int]
    """Tokens in front of the first window while it is read; they are not remembered.

    Without them the first token of every document would be an attention sink, and all sinks look
    alike.
    """
    tokens: list[int]
    """The remembered tokens."""
    queries: list[int]
    """The tokens that follow; their queries search for the document."""
    evaluated: slice = slice(None)
    """The evaluated part of the queries: all, or those that predict the answer to a question."""


def check(documents: int, queries: int, window: int) -> None:
    """Check the options.

    Raises
    ------
    OptionError
        `documents` is not a power of two, or the queries do not fit into a window.
    """
    if documents < 1 or documents & (documents - 1):
        raise OptionError(f"documents must be a power of two, got {documents}")
    if queries > window:
        raise OptionError(f"queries must fit into one window, at most {window}, got {queries}")


def cut(ids: list[int], *, documents: int, tokens: int, queries: int, seed: int) -> list[Document]:
    """Cut documents out of a text: one from each of `documents` equal parts, in random order.

    Raises
    ------
    InputError
        The text is too short.
    """
    length = OVERLAP + tokens + queries
    if len(ids) < documents * length:
        raise InputError(
            f"the text has {len(ids):,} tokens, {documents * length:,} are needed: add text"
        )
    draw = random.Random(seed)
    part = len(ids) // documents
    made = []
    for number in range(documents):
        start = number * part + draw.randrange(part - length + 1)
        first, last = start + OVERLAP, start + OVERLAP + tokens
        made.append(Document(ids[start:first], ids[first:last], ids[last : start + length]))
    draw.shuffle(made)  # few documents in memory would otherwise be neighbours, much alike
    return made


def with_facts(
    tokenizer: Any, documents: Sequence[Document], seed: int, window: int
) -> list[Document]:
    """Hide a fact in each document; the queries become those of the question for it.

    The beginning of the following text precedes the question. The evaluated queries are those that
    predict the answer: the end of the question, and the answer without its last token.

    Raises
    ------
    InputError
        A fact does not fit into its document, or the queries do not fit into a window.
    """
    draw, made = random.Random(f"places {seed}"), []
    for document, one in zip(documents, make_facts(len(documents), seed), strict=True):
        hidden = token_ids(tokenizer, f" {one.statement}")
        tokens = document.tokens
        if len(hidden) > len(tokens):
            raise InputError(
                f"a fact takes {len(hidden)} tokens, a document has {len(tokens)}: make it longer"
            )
        place = draw.randrange(len(tokens) - len(hidden) + 1)
        tokens = tokens[:place] + hidden + tokens[place + len(hidden) :]
        asked, answer = split_answer(tokenizer, f" {one.question}", one.fact.answer)
        prompt = document.queries[:LOCAL] + asked
        if len(prompt + answer) > window:
            raise InputError(
                f"the question for a fact, its answer and the text before them take "
                f"{len(prompt + answer)} tokens, the window has {window}: take a larger window"
            )
        evaluated = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        made.append(Document(document.before, tokens, prompt + answer, evaluated))
    return made
