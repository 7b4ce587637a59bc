"""How many records of a long dictionary a model finds in its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fotmem.dictionary.task import LENGTH, QUERY, SYMBOLS_PER_VALUE, as_queries, make_records
from fotmem.errors import InputError
from fotmem.evaluation.intervals import wilson

if TYPE_CHECKING:
    from fotmem.memory import Memory


@dataclass(frozen=True)
class DictionaryRow:
    """What was measured for one length of dictionary."""

    tokens: int
    """In memory; the queries come on top."""
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


def lookup(
    model: Any,
    memory: Memory,
    sizes: list[int],
    *,
    queries: int,
    store: str,
    seed: int,
    progress: bool = False,
) -> Iterator[DictionaryRow]:
    """Read dictionaries of these lengths in tokens, and query records of all depths.

    Windows overlap by a record, so that each record is read whole. Each query stands among others
    in a window, behind their answers, as in training; no two are the same.

    Raises
    ------
    InputError
        If the model's vocabulary is another one, or a length has no room for so many records.
    """
    vocabulary: int = memory.decoder.config.vocab_size  # type: ignore[union-attr, assignment]
    if vocabulary != QUERY + 1:
        raise InputError(
            "dictionary lookup needs a model with the 64 tokens of `fotmem train-dictionary`, got "
            f"one with {vocabulary:,}"
        )
    if min(sizes) < queries * LENGTH:
        raise InputError(
            f"{queries:,} records to query take {queries * LENGTH:,} tokens, got {min(sizes):,}: "
            "query fewer, or take more tokens"
        )
    return (
        _measured(model, memory, size, queries, store, seed=seed, progress=progress)
        for size in sizes
    )


def _measured(
    model: Any, memory: Memory, size: int, queries: int, store: str, *, seed: int, progress: bool
) -> DictionaryRow:
    draw = torch.Generator().manual_seed(seed)
    told = make_records(size // LENGTH, draw)
    memory.clear()
    begin = time.perf_counter()
    memory.read(told.flatten(), overlap=LENGTH, progress=progress)
    reading = time.perf_counter() - begin
    asked = as_queries(told[torch.randperm(len(told), generator=draw)[:queries]])
    begin = time.perf_counter()
    right = torch.cat(
        [_right(model, some) for some in asked.split(memory.windowing.window // LENGTH)]
    )
    asking = time.perf_counter() - begin
    whole = int(right.all(1).sum())
    return DictionaryRow(
        tokens=len(memory),
        store=store,
        accuracy=whole / queries,
        interval=wilson(whole, queries),
        symbol_accuracy=float(right.float().mean()),
        queries=queries,
        tokens_per_second=len(memory) / reading,
        bytes_per_token=sum(
            2 * one.num_heads * one.head_dim * one.dtype.itemsize for one in memory.stores.values()
        ),
        seconds_per_query=asking / queries,
    )


def _right(model: Any, asked: Tensor) -> Tensor:
    """Tell which symbols of the values are right: bool ``[n, 4]``."""
    tokens = asked.flatten()
    with torch.no_grad():
        logits = model(tokens[None].to(model.device)).logits[0, :-1]
    guesses = torch.cat([tokens[:1], logits.argmax(-1).cpu()]).view(asked.shape)
    return (guesses == asked)[:, -SYMBOLS_PER_VALUE:]
