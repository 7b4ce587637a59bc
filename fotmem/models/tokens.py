"""Tokenizes a text as a part of a longer one."""

from typing import Any


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text alone, without special tokens, and without a warning of its length.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    text : str
    """
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
