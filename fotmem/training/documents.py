"""Reads training data: documents, as runs of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fotmem.documents import load_documents
from fotmem.errors import InputError
from fotmem.models.tokens import token_ids


def read_documents(paths: Iterable[Path], tokenizer: Any, *, least: int) -> list[Tensor]:
    """Tokenize documents.

    Parameters
    ----------
    paths : iterable of path
        What `load_documents` takes.
    tokenizer : transformers tokenizer
    least : int
        Tokens of a training example. Shorter documents of one file are joined, with the
        tokenizer's end of sequence between them.

    Returns
    -------
    list of Tensor
        int64 ``[n]`` each, ``n >= least``.

    Raises
    ------
    InputError
        A file is too short, or `load_documents` cannot load it; the message names it.
    MissingPackageError
        A kind of document needs a package that is not installed.
    """
    runs: list[Tensor] = []
    for path in paths:
        texts = (document.text for document in load_documents(path))
        found = list(_runs(texts, tokenizer, least))
        if len(found[-1]) < least:
            short = found.pop()
            if not found:
                raise InputError(
                    f"{path} has {len(short):,} tokens, two windows take {least:,}: "
                    "add text, or choose a smaller window"
                )
        runs += found
    return runs


def split_off(runs: list[Tensor], share: float, *, least: int) -> tuple[list[Tensor], list[Tensor]]:
    """Split the end off each run; return what remains, and the ends.

    Runs that are too short to split stay whole.

    Raises
    ------
    InputError
        All runs are too short.
    """
    kept, ends = [], []
    for run in runs:
        length = max(least, int(share * len(run)))
        if len(run) >= length + least:
            ends.append(run[len(run) - length :])
            kept.append(run[: len(run) - length])
        else:
            kept.append(run)
    if not ends:
        raise InputError(
            f"the longest document has {max(map(len, runs)):,} tokens: too few to evaluate on its "
            f"end, which takes {2 * least:,}; add text, or give other text to evaluate on"
        )
    return kept, ends


def _runs(texts: Iterator[str], tokenizer: Any, least: int) -> Iterator[Tensor]:
    """Yield runs of at least `least` tokens; only the last may be shorter."""
    joined: list[int] = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for text in texts:
        tokens = token_ids(tokenizer, text)
        if len(tokens) >= least:
            yield torch.tensor(tokens)
            continue
        joined += [*tokens, *end]
        if len(joined) >= least:
            yield torch.tensor(joined)
            joined = []
    yield torch.tensor(joined, dtype=torch.long)
