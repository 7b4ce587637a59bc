"""Dictionary lookup: remember records, and answer queries for them (Tworkowski et al. 2023).

A record is ``<k> k1 k2 k3 k4 <v> v1 v2 v3 v4``, a query ``<q> k1 k2 k3 k4 <v>`` and then the same
values. Nothing but memory tells them, and every wrong record is a distraction.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fotmem.errors import InputError
from fotmem.evaluation.intervals import wilson

if TYPE_CHECKING:
    from fotmem.memory import Memory

SYMBOLS = 61
KEY, VALUE, QUERY = 61, 62, 63
VOCABULARY = 64
LENGTH = 10
"""Tokens of a record, and of a query."""
WINDOW = 256


@dataclass(frozen=True)
class DictionaryRow:
    """What was measured for one length of dictionary."""

    tokens: int
    store: str
    accuracy: float
    """Share of queried values of which all four symbols are right."""
    interval: tuple[float, float]
    """Of `accuracy`, at 95% (Wilson)."""
    symbol_accuracy: float
    queries: int
    tokens_per_second: float
    """Read into memory."""
    bytes_per_token: float
    """Keys and values of all memory layers."""
    seconds_per_query: float


class DictionaryPairs(Dataset[dict[str, Tensor]]):
    """Windows of records, and windows that query them; each depends on its index and seed alone."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``previous [T]``, ``current [T]`` and ``answers [T]``, True where it answers."""
        if not 0 <= index < self._size:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(self._seed * 2**32 + index)
        told = make_records(WINDOW // LENGTH + 2, draw)
        begin = int(torch.randint(LENGTH, (), generator=draw))  # a window may begin anywhere
        whole = told[(begin > 0) :][: (WINDOW + begin) // LENGTH - (begin > 0)]
        asked = whole[torch.randperm(len(whole), generator=draw)]
        asked = torch.cat([asked, asked])[: WINDOW // LENGTH + 1]
        current, answers = as_queries(asked)
        return {
            "previous": told.flatten()[begin : begin + WINDOW],
            "current": current[:WINDOW],
            "answers": answers[:WINDOW],
        }


def make_records(number: int, draw: torch.Generator) -> Tensor:
    """Invent records ``[number, 10]``, int64, no two with the same key."""
    codes = torch.zeros(0, dtype=torch.long)
    while len(codes) < number:
        more = torch.randint(SYMBOLS**4, (number + 16,), generator=draw)
        codes = torch.cat([codes, more])
        _, inverse = codes.unique(return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(codes))
        first.scatter_reduce_(0, inverse, torch.arange(len(codes)), "amin")
        codes = codes[first.sort().values]
    powers = SYMBOLS ** torch.arange(4)
    keys = codes[:number, None] // powers % SYMBOLS
    values = torch.randint(SYMBOLS, (number, 4), generator=draw)
    marks = torch.tensor([[KEY, VALUE]]).expand(number, 2)
    return torch.cat([marks[:, :1], keys, marks[:, 1:], values], 1)


def as_queries(records: Tensor) -> tuple[Tensor, Tensor]:
    """Turn records into queries with their answers: tokens ``[n * 10]``, and where they answer."""
    queries = records.clone()
    queries[:, 0] = QUERY
    answers = torch.zeros(queries.shape, dtype=torch.bool)
    answers[:, 6:] = True
    return queries.flatten(), answers.flatten()


def lookup(
    model: Any, memory: Memory, sizes: list[int], *, queries: int, store: str, seed: int
) -> Iterator[DictionaryRow]:
    """Read dictionaries of these lengths in tokens, and query records of all depths.

    Windows overlap by a record, so that each record is read whole.

    Raises
    ------
    InputError
        If a length has no room for that many different records.
    """
    per_window = WINDOW // LENGTH
    for tokens in sizes:
        records = tokens // LENGTH - queries
        if records < queries:
            least = 2 * queries * LENGTH
            raise InputError(f"{queries} queries take at least {least:,} tokens, got {tokens:,}")
        draw = torch.Generator().manual_seed(seed)
        told = make_records(records, draw)
        memory.clear()
        begin = time.perf_counter()
        memory.read(told.flatten(), attend=False, overlap=LENGTH, progress=True)
        reading = time.perf_counter() - begin
        asked = told[torch.randperm(records, generator=draw)[:queries]]
        right = []
        begin = time.perf_counter()
        for start in range(0, queries, per_window):
            ids, answers = as_queries(asked[start : start + per_window])
            with torch.no_grad():
                guesses = model(ids[None].to(model.device)).logits[0, :-1].argmax(-1).cpu()
            right.append((guesses == ids[1:])[answers[1:]].view(-1, 4))
        seconds = time.perf_counter() - begin
        hits = torch.cat(right)
        whole = int(hits.all(1).sum())
        some = memory.stores[memory.layers[0]]
        kept = 2 * len(memory.layers) * some.num_heads * some.head_dim * some.dtype.itemsize
        yield DictionaryRow(
            tokens=tokens,
            store=store,
            accuracy=whole / queries,
            interval=wilson(whole, queries),
            symbol_accuracy=float(hits.float().mean()),
            queries=queries,
            tokens_per_second=len(memory) / reading,
            bytes_per_token=kept,
            seconds_per_query=seconds / queries,
        )
