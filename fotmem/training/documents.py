"""Reads training data: text files, JSONL files and datasets on disk, as runs of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fotmem.errors import InputError, require_packages
from fotmem.files import read_text
from fotmem.models.tokens import token_ids


def read_documents(paths: Iterable[Path], tokenizer: Any, *, least: int) -> list[Tensor]:
    """Tokenize documents.

    Parameters
    ----------
    paths : iterable of path
        Text files (one document each), ``.jsonl`` files (an object with ``text`` per line), or
        folders written by `datasets.Dataset.save_to_disk` with a ``text`` column.
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
        A file is too short, empty, binary, not UTF-8 or not JSON; the message names it.
    """
    runs: list[Tensor] = []
    for path in paths:
        found = list(_runs(_texts(path), tokenizer, least))
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


def _texts(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield from _dataset(path)
    elif path.suffix == ".jsonl":
        yield from _lines(path)
    else:
        yield read_text(path)


def _lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f'{path}, line {number}: expected an object such as {{"text": "..."}}, '
                f"got {line[:40]!r}"
            ) from error
        if not isinstance(text, str):
            raise InputError(f"{path}, line {number}: text must be a string, got {text!r}")
        yield text


def _dataset(path: Path) -> Iterator[str]:
    require_packages("a dataset on disk", "datasets", extra="train")
    from datasets import Dataset, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # its own types of error vary
        raise InputError(
            f"{path} is not a dataset on disk ({error}); expected a text file, a .jsonl file, or a "
            "folder that datasets' save_to_disk wrote"
        ) from error
    if not isinstance(dataset, Dataset) or "text" not in dataset.column_names:
        raise InputError(f"{path} must be a dataset with a text column, got {dataset}")
    yield from dataset["text"]
