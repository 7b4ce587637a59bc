"""The dictionary evaluation: records of a long dictionary in memory are queried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fotmem.errors import InputError
from fotmem.measure.evaluate.compare_settings import Reading, SettingComparison, SettingRun
from fotmem.measure.evaluate.intervals import wilson
from fotmem.measure.evaluate.report import StoreRow, TaskReport
from fotmem.measure.machine import resident
from fotmem.models.predictions import check_predictions
from fotmem.tasks.dictionary import LENGTH, QUERY, SYMBOLS_PER_VALUE, as_queries, make_records

if TYPE_CHECKING:
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory


@dataclass(frozen=True)
class DictionaryRow(StoreRow):
    """The result of one length of dictionary; `tokens` does not count the queries."""

    exact_match: float
    """Share of queries whose four symbols are all correct."""
    exact_match_interval: tuple[float, float]
    """95% interval of `exact_match` (Wilson)."""
    symbol_accuracy: float
    """Share of correct symbols."""
    queries: int
    tokens_per_second: float
    """Tokens per second read into memory."""
    bytes_per_token: float
    """Bytes of keys and values, all memory layers."""
    seconds_per_query: float
    ram: int | None = None
    """Bytes that the process needs more after reading, without pages of files: everything that the
    store keeps in memory. None where settings were compared, or without psutil."""


def measure_dictionary(
    model: Any,
    memory: Memory,
    sizes: list[int],
    *,
    queries: int,
    store: str,
    seed: int,
    progress: bool = False,
) -> Iterator[DictionaryRow]:
    """Read dictionaries of these lengths in tokens, and query records at all depths.

    Windows overlap by a record, so that each record is read whole. A window holds many queries with
    their answers, as in training; no two queries are the same.

    Raises
    ------
    InputError
        The model has another vocabulary, or a length has no room for that many records.
    """
    _check(memory, sizes, queries)
    return (
        _measured(model, memory, size, queries, store, seed=seed, progress=progress)
        for size in sizes
    )


def compare(
    model: Any,
    memory: Memory,
    sizes: list[int],
    settings: Sequence[Setting],
    measured: TaskReport[DictionaryRow],
    *,
    queries: int,
    seed: int,
) -> Iterator[int]:
    """Query the same records with several settings of stores; yields as `SettingComparison.run`.

    `measured` receives for each size and setting a row or its failure. Parameters and exceptions as
    for `measure_dictionary`.
    """
    _check(memory, sizes, queries)

    def compared() -> Iterator[int]:
        for size in sizes:
            tokens = size // LENGTH * LENGTH
            missing = measured.missing(tokens, settings)
            if not missing:
                continue
            task = DictionaryTask(memory, size, queries, seed)

            def row(run: SettingRun[Tensor], task: DictionaryTask = task) -> DictionaryRow:
                return task.row(run.results, run.setting.store, run.seconds)

            readings = [Reading(task.read, [partial(task.asks, model)])]
            comparison: SettingComparison[Tensor] = SettingComparison(memory, missing)
            yield from comparison.run(readings, partial(measured.keep, tokens=tokens, row=row))

    return compared()


class DictionaryTask:
    """A dictionary to read, and the records to query."""

    def __init__(self, memory: Memory, size: int, queries: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.records = make_records(size // LENGTH, draw)
        self._asked = as_queries(
            self.records[torch.randperm(len(self.records), generator=draw)[:queries]]
        )
        self._memory, self._reading = memory, 0.0

    def read(self, *, progress: bool = False) -> None:
        """Read the dictionary into an empty memory, and time it."""
        self._memory.clear()
        begin = time.perf_counter()
        self._memory.read(self.records.flatten(), overlap=LENGTH, progress=progress)
        self._reading = time.perf_counter() - begin

    def asks(self, model: Any) -> Iterator[Callable[[], Tensor]]:
        """Yield a function for each window of queries, which asks them."""
        for some in self._asked.split(self._memory.options.window // LENGTH):
            yield partial(_right, model, some)

    def row(self, answers: list[Tensor], store: str, seconds: float) -> DictionaryRow:
        """Count the correct ones among answers of `_right`."""
        right, tokens = torch.cat(answers), self.records.numel()
        whole, queries = int(right.all(1).sum()), len(right)
        return DictionaryRow(
            tokens=tokens,
            store=store,
            exact_match=whole / queries,
            exact_match_interval=wilson(whole, queries),
            symbol_accuracy=float(right.float().mean()),
            queries=queries,
            tokens_per_second=tokens / self._reading,
            bytes_per_token=sum(
                2 * one.num_heads * one.head_dim * one.dtype.itemsize
                for one in self._memory.stores.values()
            ),
            seconds_per_query=seconds / queries,
        )


def _check(memory: Memory, sizes: list[int], queries: int) -> None:
    """Raise `InputError` if such dictionaries cannot be queried."""
    vocabulary: int = memory.attached_model.decoder.config.vocab_size  # type: ignore[union-attr, assignment]
    if vocabulary != QUERY + 1:
        raise InputError(
            "dictionary lookup needs a model with 64 tokens, `dictionary-fot` or one that "
            f"`fotmem train-dictionary` made; got one with {vocabulary:,}"
        )
    if min(sizes) < queries * LENGTH:
        raise InputError(
            f"{queries:,} records to query take {queries * LENGTH:,} tokens, got {min(sizes):,}: "
            "query fewer, or take more tokens"
        )


def _measured(
    model: Any, memory: Memory, size: int, queries: int, store: str, *, seed: int, progress: bool
) -> DictionaryRow:
    counted = find_spec("psutil") is not None
    task = DictionaryTask(memory, size, queries, seed)
    memory.clear()  # of the previous size: its bytes would be missing in the difference
    before = resident() if counted else 0
    task.read(progress=progress)
    ram = resident() - before if counted else None
    begin = time.perf_counter()
    answers = [ask() for ask in task.asks(model)]
    return replace(task.row(answers, store, time.perf_counter() - begin), ram=ram)


def _right(model: Any, asked: Tensor) -> Tensor:
    """Return which symbols of the values are correct: bool ``[n, 4]``."""
    tokens = asked.flatten()
    with torch.no_grad():
        logits = model(tokens[None].to(model.device)).logits[0, :-1]
    check_predictions(logits)
    guesses = torch.cat([tokens[:1], logits.argmax(-1).cpu()]).view(asked.shape)
    return (guesses == asked)[:, -SYMBOLS_PER_VALUE:]
