"""The pass key: a number hidden in a text, and the question for it.

Mohtashami and Jaggi 2023 (arXiv:2305.16300), as used by the Focused Transformer paper.
"""

from __future__ import annotations

from typing import Any

from fotmem.errors import InputError
from fotmem.models.tokens import token_ids

NAME = "pass key"


def fact(name: str, code: str) -> str:
    """Return the text that states the number: on a line of its own, as in the original task."""
    return f"\nThe {name} is {code}. Remember it. {code} is the {name}.\n"


def question(name: str) -> str:
    """Return the question; the next token is the answer."""
    return f"\nWhat is the {name}? The {name} is"


def split_answer(tokenizer: Any, asked: str, code: str) -> tuple[list[int], list[int]]:
    """Tokenize a question and its answer, so that the answer begins with a digit.

    Some tokenizers, such as LLaMA's, have a token of its own for the space before a number. It
    belongs to the question: the task is to find digits, not to guess that digits follow. Both are
    tokenized at once, as in the text: LLaMA's tokenizers put a space before every text.

    Raises
    ------
    InputError
        No token decodes to a digit.
    """
    tokens = token_ids(tokenizer, f"{asked} {code}")
    for first, token in enumerate(tokens):
        if any(map(str.isdigit, tokenizer.decode([token]))):
            return tokens[:first], tokens[first:]
    raise InputError(
        f"the tokenizer has no digits: it turns {f'{asked} {code}'!r} into "
        f"{tokenizer.decode(tokens)!r}, so no number can be hidden; measure perplexity instead"
    )
