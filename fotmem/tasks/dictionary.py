"""Records to remember, and queries for them (Tworkowski et al. 2023, arXiv:2307.03170).

A record is ``<k> k1 k2 k3 k4 <v> v1 v2 v3 v4``, a query ``<q> k1 k2 k3 k4 <v>`` and then the same
values. They are only in memory, and every other record is a distraction.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

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
FEW = 6
"""Number of symbols of similar records."""


class TrainingStage(NamedTuple):
    """A stage of the training."""

    window: int = WINDOW
    """Tokens of a previous and of a current window. Among few records a model learns to look them
    up in minutes, and then soon among many."""
    alike: float = 0.0
    """Share of records made of few symbols: many of their keys differ in one symbol, and many
    values begin alike. A large memory has such records; a batch would have none."""


class DictionaryPairs(Dataset[dict[str, Tensor]]):
    """Documents of two windows: records, and queries for the records of the first window.

    An example holds as many documents as fill `WINDOW` tokens. It depends on its index and the
    seed alone. The first window begins anywhere in a record, as those of a long dictionary do.

    Parameters
    ----------
    size : int
        Number of examples.
    seed : int
        Seed of everything random.
    parts : tuple of TrainingStage
        Equal parts of the dataset.
    batch : int
        Number of consecutive examples in a batch: no two of their records have the same key.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        parts: tuple[TrainingStage, ...] = (TrainingStage(),),
        batch: int = 1,
    ) -> None:
        self._size, self._seed, self._parts, self._batch = size, seed, parts, batch

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``windows [n, 2, T]`` and ``answers [n, 2, T]``, True where it answers."""
        if not 0 <= index < self._size:
            raise IndexError(index)
        place = index % self._batch
        window, alike = self._parts[(index - place) * len(self._parts) // self._size]
        number, documents = 2 * window // LENGTH + 1, WINDOW // window
        name = f"{self._seed} batch {index - place}"
        drawn = _drawn_records(number * documents * self._batch, name, alike)
        draw = _draw(f"{self._seed} example {index}")
        told = drawn.chunk(self._batch)[place].chunk(documents)
        parts = zip(*(_document(records, window, draw) for records in told), strict=True)
        windows, answers = map(torch.stack, parts)
        return {"windows": windows, "answers": answers}


def _draw(name: str) -> torch.Generator:
    mixed = random.Random(f"dictionary {name}").getrandbits(32)  # all torch takes
    return torch.Generator().manual_seed(mixed)


@lru_cache(maxsize=1)
def _drawn_records(number: int, name: str, alike: float) -> Tensor:
    """Draw the records of a batch, once for all its examples."""
    return make_records(number, _draw(name), alike)


def _document(told: Tensor, window: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return two windows and where they answer, ``[2, T]`` each."""
    begin = int(torch.randint(LENGTH, (), generator=draw))
    whole = told[(begin + LENGTH - 1) // LENGTH : (begin + window) // LENGTH]
    asked = window // LENGTH - 1  # so many records are whole wherever the window begins
    queries = as_queries(whole[torch.randperm(len(whole), generator=draw)[:asked]])
    records = told.flatten()[begin : begin + 2 * window - queries.numel()]
    answers = torch.zeros(2, window, dtype=torch.bool)
    answers[1, -queries.numel() :].view(-1, LENGTH)[:, -SYMBOLS_PER_VALUE:] = True
    return torch.cat([records, queries.flatten()]).view(2, window), answers


def make_records(number: int, draw: torch.Generator, alike: float = 0.0) -> Tensor:
    """Invent records, no two with the same key.

    Parameters
    ----------
    number : int
        Number of records.
    draw : torch.Generator
        Of everything random.
    alike : float
        Share of records, below 1, that are made of `FEW` symbols only.

    Returns
    -------
    Tensor
        int64 ``[number, 10]``.

    Raises
    ------
    InputError
        There are fewer keys.
    """
    most = SYMBOLS**4 // 2
    if number > most:
        raise InputError(
            f"there are at most {most:,} records ({most * LENGTH:,} tokens), got {number:,}: take "
            "fewer tokens"
        )
    python = random.Random(int(torch.randint(2**32, (), generator=draw)))
    few = python.sample(range(SYMBOLS), FEW)
    told: dict[tuple[int, ...], bool] = {}
    while len(told) < number:
        of_few = python.random() < alike
        told.setdefault(tuple(python.choices(few if of_few else range(SYMBOLS), k=4)), of_few)
    values = torch.randint(SYMBOLS, (number, 4), generator=draw)
    values = torch.where(
        torch.tensor(list(told.values()))[:, None], torch.tensor(few)[values % FEW], values
    )
    marks = torch.tensor([[KEY, VALUE]]).expand(number, 2)
    return torch.cat([marks[:, :1], torch.tensor(list(told)), marks[:, 1:], values], 1)


def as_queries(records: Tensor) -> Tensor:
    """Turn records ``[n, 10]`` into queries with their answers, ``[n, 10]``."""
    marks = torch.full((len(records), 1), QUERY)
    return torch.cat([marks, records[:, 1:]], 1)
