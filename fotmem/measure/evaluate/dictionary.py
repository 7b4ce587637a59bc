"""How many records of a long dictionary a model finds in its memory."""

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
from fotmem.tasks.dictionary import LENGTH, QUERY, SYMBOLS_PER_VALUE, as_queries, make_records

if TYPE_CHECKING:
    from fotmem.measure.setting import Setting
    from fotmem.memory.memory import Memory


@dataclass(frozen=True)
class DictionaryRow(StoreRow):
    """What was measured for one length of dictionary; the queries come on top of `tokens`."""

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
    ram: int | None = None
    """Bytes that the process has more once it has read, without pages of files: all that the store
    keeps in memory. None where settings were compared, or psutil is not installed."""


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
    """Query the same records with settings of stores; yields as `SettingComparison.run`.

    `measured` takes of each size and setting a row, or why there is none. Parameters and exceptions
    as for `lookup`.
    """
    _check(memory, sizes, queries)

    def compared() -> Iterator[int]:
        for size in sizes:
            tokens = size // LENGTH * LENGTH
            missing = measured.missing(tokens, settings)
            if not missing:
                continue
            task = DictionaryTask(memory, size, queries, seed)

            def row(tried: SettingRun[Tensor], task: DictionaryTask = task) -> DictionaryRow:
                return task.row(tried.outcomes, tried.setting.store, tried.seconds)

            readings = [Reading(task.read, [partial(task.asks, model)])]
            comparison: SettingComparison[Tensor] = SettingComparison(memory, missing)
            yield from comparison.run(readings, partial(measured.keep, tokens=tokens, row=row))

    return compared()


class DictionaryTask:
    """A dictionary to read, and records to query."""

    def __init__(self, memory: Memory, size: int, queries: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.told = make_records(size // LENGTH, draw)
        self._asked = as_queries(
            self.told[torch.randperm(len(self.told), generator=draw)[:queries]]
        )
        self._memory, self._reading = memory, 0.0

    def read(self, *, progress: bool = False) -> None:
        """Read the dictionary into an empty memory, and time it."""
        self._memory.clear()
        begin = time.perf_counter()
        self._memory.read(self.told.flatten(), overlap=LENGTH, progress=progress)
        self._reading = time.perf_counter() - begin

    def asks(self, model: Any) -> Iterator[Callable[[], Tensor]]:
        """Yield what to call for the queries of one window after another."""
        for some in self._asked.split(self._memory.options.window // LENGTH):
            yield partial(_right, model, some)

    def row(self, answers: list[Tensor], store: str, seconds: float) -> DictionaryRow:
        """Count the right ones among answers as from `_right`."""
        right, tokens = torch.cat(answers), self.told.numel()
        whole, queries = int(right.all(1).sum()), len(right)
        return DictionaryRow(
            tokens=tokens,
            store=store,
            accuracy=whole / queries,
            interval=wilson(whole, queries),
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
    """Raise `InputError` unless such dictionaries can be looked up."""
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
    memory.clear()  # of what was measured before: it would be missing in the difference
    before = resident() if counted else 0
    task.read(progress=progress)
    ram = resident() - before if counted else None
    begin = time.perf_counter()
    answers = [ask() for ask in task.asks(model)]
    return replace(task.row(answers, store, time.perf_counter() - begin), ram=ram)


def _right(model: Any, asked: Tensor) -> Tensor:
    """Tell which symbols of the values are right: bool ``[n, 4]``."""
    tokens = asked.flatten()
    with torch.no_grad():
        logits = model(tokens[None].to(model.device)).logits[0, :-1]
    guesses = torch.cat([tokens[:1], logits.argmax(-1).cpu()]).view(asked.shape)
    return (guesses == asked)[:, -SYMBOLS_PER_VALUE:]
