"""Records to remember, and queries for them (Tworkowski et al. 2023, arXiv:2307.03170).

A record is ``<k> k1 k2 k3 k4 <v> v1 v2 v3 v4``, a query ``<q> k1 k2 k3 k4 <v>`` and then the same
values. Nothing but memory tells them, and every other record is a distraction.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fotmem.errors import InputError

SYMBOLS = 61
KEY, VALUE, QUERY = range(SYMBOLS, SYMBOLS + 3)
VOCABULARY = [*map(str, range(SYMBOLS)), "<k>", "<v>", "<q>"]
"""The 64 tokens, by id."""
LENGTH = 10
"""Tokens of a record, and of a query."""
SYMBOLS_PER_VALUE = 4
WINDOW = 256
"""Tokens of local context."""


class DictionaryPairs(Dataset[dict[str, Tensor]]):
    """Documents of two windows: records, and queries for the records of the first window.

    Each depends on its index and the seed alone. The first window begins anywhere in a record, as
    those of a long dictionary do.

    Parameters
    ----------
    size : int
        How many there are.
    seed : int
        Of everything random.
    windows : tuple of int
        Tokens per window ``T``, in equal parts of the dataset. Where they are shorter than
        `WINDOW`, an example holds ``n = WINDOW // T`` documents: among few records, a model
        learns to look them up in minutes, and then soon among many.
    batch : int
        So many examples in a row, which are stacked, have windows of one length.
    """

    def __init__(
        self, size: int, seed: int, windows: tuple[int, ...] = (WINDOW,), batch: int = 1
    ) -> None:
        self._size, self._seed, self._windows, self._batch = size, seed, windows, batch

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``previous``, ``current`` and ``answers`` (True where it answers), ``[n, T]``."""
        if not 0 <= index < self._size:
            raise IndexError(index)
        first = index - index % self._batch
        window = self._windows[first * len(self._windows) // self._size]
        mixed = random.Random(f"dictionary {self._seed} {index}").getrandbits(32)  # all torch takes
        draw = torch.Generator().manual_seed(mixed)
        documents = [_document(window, draw) for _ in range(WINDOW // window)]
        names = ("previous", "current", "answers")
        return dict(zip(names, map(torch.stack, zip(*documents, strict=True)), strict=True))


def _document(window: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    told = make_records(2 * window // LENGTH + 1, draw)
    begin = int(torch.randint(LENGTH, (), generator=draw))
    whole = told[(begin + LENGTH - 1) // LENGTH : (begin + window) // LENGTH]
    asked = window // LENGTH - 1  # so many records are whole wherever the window begins
    queries = as_queries(whole[torch.randperm(len(whole), generator=draw)[:asked]])
    records = told.flatten()[begin : begin + 2 * window - queries.numel()]
    answers = torch.zeros(window, dtype=torch.bool)
    answers[-queries.numel() :].view(-1, LENGTH)[:, -SYMBOLS_PER_VALUE:] = True
    return records[:window], torch.cat([records[window:], queries.flatten()]), answers


def make_records(number: int, draw: torch.Generator) -> Tensor:
    """Invent records, no two with the same key.

    Parameters
    ----------
    number : int
        How many.
    draw : torch.Generator
        Of everything random.

    Returns
    -------
    Tensor
        int64 ``[number, 10]``.

    Raises
    ------
    InputError
        There are not so many keys.
    """
    most = SYMBOLS**4 // 2
    if number > most:
        raise InputError(f"there are at most {most:,} records, got {number:,}")
    codes = torch.zeros(0, dtype=torch.long)
    while len(codes) < number:
        more = torch.randint(SYMBOLS**4, (number + 16,), generator=draw)
        codes = torch.cat([codes, more]).unique()
    codes = codes[torch.randperm(len(codes), generator=draw)[:number]]
    keys = codes[:, None] // SYMBOLS ** torch.arange(4) % SYMBOLS
    values = torch.randint(SYMBOLS, (number, 4), generator=draw)
    marks = torch.tensor([[KEY, VALUE]]).expand(number, 2)
    return torch.cat([marks[:, :1], keys, marks[:, 1:], values], 1)


def as_queries(records: Tensor) -> Tensor:
    """Turn records ``[n, 10]`` into queries with their answers, ``[n, 10]``."""
    marks = torch.full((len(records), 1), QUERY)
    return torch.cat([marks, records[:, 1:]], 1)
