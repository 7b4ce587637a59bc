"""One store in a process of its own: builds it, answers, and times itself when asked to.

The process is its own so that the memory it takes is the store's, and so that a store which fails
takes nothing else with it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fotmem.attention import topk_attention
from fotmem.measure.capture import Capture, KeyValues
from fotmem.measure.grid import same_build, search_changes
from fotmem.measure.machine import resident
from fotmem.measure.setting import Setting
from fotmem.plugin.create import create_store, find_store
from fotmem.stores.rows_store import RowsStore
from fotmem.stores.store import MemoryStore

STEP = 2048
"""Tokens of one `add`, at most."""
MOVED = 0.1
"""How far keys that come again are moved, in units of their standard deviation."""
SINGLE = 20
"""Queries of each head that are asked one by one at every size, at least,"""
ENOUGH = 0.1
"""and until they took so many seconds."""
TURNS = 2
"""In which settings are timed, one after the other: others use the processor, too, for a while."""
COUNTED = 32
"""Queries by which is told how many keys are read."""
WARM = 5000
"""Random keys of a store that is filled first, so that what libraries need is loaded."""


@dataclass(frozen=True)
class StoreJob:
    """Which store to build, of what."""

    capture: str
    layer: int
    settings: tuple[Setting, ...]
    """Of one store. It is built for the first, and tuned to those that need no other."""
    queries: int
    """How many of a head it is asked."""
    device: str
    """Where queries are, and answers go."""
    store_device: str
    threads: int | None
    sizes: tuple[int, ...]
    """After how many tokens it answers while it grows; the last is when it is complete. Beyond
    those that are captured, they come again, moved a little: for the costs of a larger store."""
    top_k: int
    """Of these answers."""
    same_queries: bool = False
    """Whether it is asked the same at all sizes, by queries of all places of the text; else what
    came after so many tokens."""
    costs: bool = True
    """Whether it is told what a query costs, and the memory that is taken."""


class StoreAnswer(NamedTuple):
    """What a store answers to all queries."""

    scores: Tensor
    """Shape ``[H, M, K]``."""
    out: Tensor
    """Shape ``[H, M, D]``."""


class SettingResult(NamedTuple):
    """A store of some size, tuned to a setting."""

    answer: StoreAnswer | None
    """None for more tokens than are captured."""
    share_read: float | None = None
    one: float = math.nan
    """Seconds of one query of each head: median, the lowest of those of some turns."""


class SizeResult(NamedTuple):
    """A store of some size."""

    size: int
    adds: list[float]
    """Seconds of each `add` since the last size."""
    ram: int
    """Bytes that the process needs more than with the empty store; 0 if `costs` are not told."""
    disk: int
    """Bytes on disk: of the store's folder, or of unnamed temporary files."""
    tuned: list[SettingResult]
    """For each of its settings."""


def serve(connection: Connection, job: StoreJob, folder: str) -> None:
    """Build a store, with `folder` for its files, then carry out orders until one says stop.

    It sends the settings that the store can be tuned to, then a `SizeResult` for every size. An
    exception is sent too, and ends the process.
    """
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    with suppress(_GoneError):
        try:
            _work(connection, job, folder)
        except _GoneError:
            raise
        except Exception as error:
            _send(connection, RuntimeError(f"{type(error).__name__}: {error}"))


class _GoneError(Exception):
    """Nobody listens any more."""


def _work(connection: Connection, job: StoreJob, folder: str) -> None:
    if job.threads:
        torch.set_num_threads(job.threads)
    with StoreBench(job, Path(folder)) as bench:
        _send(connection, bench.settings)
        for grown in bench.grow():
            _send(connection, grown)
        while (order := _received(connection)) is not None:
            name, setting, arguments = order
            bench.tune(setting)
            _send(connection, getattr(bench, name)(*arguments))


def _end_with_parent(folder: str) -> None:
    """End as soon as the process that started this one has, however that came."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _send(connection: Connection, content: Any) -> None:
    """Send something whole: tensors that are shared could be fetched from a living process only."""
    try:
        connection.send_bytes(pickle.dumps(content))
    except OSError as error:
        raise _GoneError from error


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise _GoneError from error


class StoreBench:
    """Builds one store from a capture, tunes it, asks it and times it."""

    def __init__(self, job: StoreJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.capture = Capture.open(job.capture)
        first = job.settings[0]
        self.promised = find_store(first.store).capabilities
        info = self.capture.info
        self.scale = info.scale
        self.queries = self._asked(info.tokens)
        if job.costs:
            self.store = self._created(folder / "warm")
            self.store.add(*torch.randn(2, info.num_heads, WARM, info.head_dim).to(job.device))
            self.answer(job.top_k)
            self.store.close()
        self.store = self._created(folder / "store")
        tuned = self.store.search_options
        self.settings = [each for each in job.settings if same_build(each, first, tuned)]
        self.before = resident() if job.costs else 0

    def __enter__(self) -> StoreBench:
        return self

    def __exit__(self, *error: object) -> None:
        self.store.close()

    def grow(self) -> Iterator[SizeResult]:
        """Add all tokens; stop at each size to be asked."""
        for size in self.job.sizes:
            adds = []
            while len(self.store) < size:
                rows = self._next_rows(size - len(self.store))
                begin = self._now()
                self.store.add(*rows)
                adds.append(self._now() - begin)
            self.store.flush()
            ram = resident() - self.before if self.job.costs else 0
            if not self.job.same_queries:
                self.queries = self._asked(size)
            tuned = [self._tuned(each) for each in self.settings]
            if self.job.costs:
                turns = [[self._timed(each) for each in self.settings] for _ in range(TURNS)]
                lowest = map(min, zip(*turns, strict=True))
                tuned = [each._replace(one=one) for each, one in zip(tuned, lowest, strict=True)]
            yield SizeResult(size, adds, ram, self._disk(), tuned)

    def _next_rows(self, most: int) -> KeyValues:
        """Return the keys and values that come next, at most so many."""
        tokens, end = self.capture.info.tokens, len(self.store)
        start = end % tokens
        rows = self.capture.rows(self.job.layer, start, min(start + min(most, STEP), tokens))
        if end < tokens:
            return rows
        draw = torch.Generator().manual_seed(end)
        moved = torch.randn(rows.keys.shape, generator=draw) * (MOVED * rows.keys.std())
        return KeyValues(rows.keys + moved, rows.values)

    def _tuned(self, setting: Setting) -> SettingResult:
        self.tune(setting)
        top_k, captured = self.job.top_k, len(self.store) <= self.capture.info.tokens
        answer = self.answer(top_k) if captured else None
        return SettingResult(answer, self.share_read(top_k) if self.job.costs else None)

    def _timed(self, setting: Setting) -> float:
        """Ask one query after the other; return the median of their seconds."""
        self.tune(setting)
        singly: list[float] = []
        while len(singly) < SINGLE // TURNS or sum(singly) < ENOUGH / TURNS:
            singly += self.singly(self.job.top_k, len(singly), SINGLE // TURNS)
        return statistics.median(singly)

    def tune(self, setting: Setting) -> None:
        """Let searches be those of a setting from now on."""
        if changes := search_changes(setting, self.store.search_options):
            self.store.tune(**changes)

    def answer(self, top_k: int) -> StoreAnswer:
        """Answer all queries."""
        ids, scores = self.store.search(self.queries, top_k)
        values = self.store.values(ids)
        out = topk_attention(scores, values, scale=self.scale, dtype=scores.dtype).out
        return StoreAnswer(scores.cpu(), out.cpu())

    def share_read(self, top_k: int) -> float | None:
        """Tell which share of the keys a query is compared with."""
        some = self.queries[:, :COUNTED]
        return 1.0 if self.promised.exact else self.store.share_read(some, top_k)

    def singly(self, top_k: int, first: int, count: int) -> list[float]:
        """Attend with one query of each head, so many times; seconds of each."""
        return [self._seconds(self._some(first + i, 1), top_k) for i in range(count)]

    def window(self, top_k: int, first: int, queries: int) -> float:
        """Attend with many queries of each head at once; seconds."""
        return self._seconds(self._some(first, queries), top_k)

    def _disk(self) -> int:
        if isinstance(self.store, RowsStore):
            return self.store.disk_bytes
        files = (self.folder / "store").rglob("*")
        return sum(file.stat().st_blocks * 512 for file in files if file.is_file())

    def _created(self, folder: Path) -> MemoryStore:
        info = self.capture.info
        setting = self.job.settings[0]
        return create_store(
            setting.store,
            num_heads=info.num_heads,
            head_dim=info.head_dim,
            device=self.job.store_device,
            directory=folder if self.promised.persistent else None,
            **setting.options,
        )

    def _asked(self, size: int) -> Tensor:
        job, capture = self.job, self.capture
        if job.same_queries:
            queries = capture.spread_queries(job.layer, job.queries)
        else:
            asked = min(size, capture.info.tokens)
            queries = capture.queries(job.layer, asked)[:, : job.queries]
        return queries.contiguous().to(job.device)

    def _some(self, first: int, count: int) -> Tensor:
        """Return `count` queries of each head, from one on, beginning anew at the end."""
        ids = torch.arange(first, first + count, device=self.queries.device)
        return self.queries[:, ids % self.queries.shape[1]]

    def _seconds(self, queries: Tensor, top_k: int) -> float:
        begin = self._now()
        self.store.attend(queries, top_k=top_k, scale=self.scale)
        return self._now() - begin

    def _now(self) -> float:
        if self.job.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()
