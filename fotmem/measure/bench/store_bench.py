"""Builds one store from a capture, asks it and times it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fotmem.attention import topk_attention
from fotmem.measure.bench.kept_rows import directory_bytes, leaves_rows, whole_blocks
from fotmem.measure.bench.store_job import (
    AllKeysAnswer,
    SettingResult,
    SizeResult,
    StoreAnswer,
    StoreJob,
)
from fotmem.measure.capture import Capture, KeyValues
from fotmem.measure.grid import same_build, search_changes
from fotmem.measure.machine import resident
from fotmem.measure.setting import Setting
from fotmem.plugin.create import create_store, find_store
from fotmem.stores.store import MemoryStore

STEP = 2048
"""Most tokens of one `add`."""
MOVED = 0.1
"""Noise on keys that come again, in units of their standard deviation."""
SINGLE = 20
"""Fewest queries of each head that are timed one by one at every size."""
ENOUGH = 0.1
"""Fewest seconds that these queries take together."""
TURNS = 2
"""Turns in which all settings are timed: a single turn may fall into a busy moment."""
COUNTED = 32
"""Queries of a head whose compared keys are counted."""
OPENED = 8192
"""Tokens of the memory that shows what a store leaves in its directory."""
WARM = 5000
"""Random keys of a first store, which makes libraries load what they need."""


class StoreBench:
    """Builds one store from a capture, tunes it, asks it and times it.

    Parameters
    ----------
    job : StoreJob
    folder : Path
        For the files of the store.
    """

    def __init__(self, job: StoreJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.capture = Capture.open(job.capture)
        first = job.settings[0]
        self.promised = find_store(first.store).capabilities
        info = self.capture.info
        self.scale = info.scale
        self.queries = self._asked(info.tokens)
        self.leaves_rows = False
        """Whether the store leaves keys and values in a memory's directory."""
        if job.costs:
            if job.opened is not None:
                self.leaves_rows = self._leaves_rows(job.opened)
            self.store = self._created(folder / "warm")
            self.store.add(*torch.randn(2, info.num_heads, WARM, info.head_dim).to(job.device))
            self.store.attend(self.queries, top_k=job.top_k, scale=self.scale)
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
        """Add all tokens; yield a result at each size."""
        for size in self.job.sizes:
            inserts = []
            while len(self.store) < size:
                rows = self._next_rows(size - len(self.store))
                begin = self._now()
                self.store.add(*rows)
                inserts.append(self._now() - begin)
            self.store.flush()
            ram = self._ram() if self.job.costs else 0
            if not self.job.same_queries:
                self.queries = self._asked(size)
            yield SizeResult(size, inserts, ram, self._disk(), self._results())

    def _results(self) -> list[SettingResult]:
        """Ask the store with each setting, then time the settings in turn."""
        results = [self._result(each) for each in self.settings]
        if not self.job.costs:
            return results
        turns = [[self._timed(each) for each in self.settings] for _ in range(TURNS)]
        lowest = map(min, zip(*turns, strict=True))
        return [each._replace(latency=one) for each, one in zip(results, lowest, strict=True)]

    def _next_rows(self, most: int) -> KeyValues:
        """Return the next keys and values, at most `most`."""
        tokens, end = self.capture.info.tokens, len(self.store)
        start = end % tokens
        rows = self.capture.rows(self.job.layer, start, min(start + min(most, STEP), tokens))
        if end < tokens:
            return rows
        draw = torch.Generator().manual_seed(end)
        moved = torch.randn(rows.keys.shape, generator=draw) * (MOVED * rows.keys.std())
        return KeyValues(rows.keys + moved, rows.values)

    def _result(self, setting: Setting) -> SettingResult:
        self.tune(setting)
        top_k, captured = self.job.top_k, len(self.store) <= self.capture.info.tokens
        if top_k is None:
            found = self.all_keys_answer(None)
            return SettingResult(found if captured else None, found.share_read)
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
        """Search with the options of a setting from now on."""
        if changes := search_changes(setting, self.store.search_options):
            self.store.tune(**changes)

    def answer(self, top_k: int) -> StoreAnswer:
        """Answer all queries."""
        ids, scores = self.store.search(self.queries, top_k)
        values = self.store.values(ids)
        out = topk_attention(scores, values, scale=self.scale, dtype=scores.dtype).out
        return StoreAnswer(scores.cpu(), out.cpu())

    def all_keys_answer(self, _: None) -> AllKeysAnswer:
        """Answer all queries by attention to all keys."""
        out = self.store.attend(self.queries, top_k=None, scale=self.scale).out.cpu()
        found = self.store.tail_estimate(self.queries, scale=self.scale)
        if found is None:
            return AllKeysAnswer(out, None, 1.0 if self.promised.exact else None)
        return AllKeysAnswer(out, found.error.cpu(), float(found.share_read.mean()))

    def share_read(self, top_k: int) -> float | None:
        """Return the share of the keys that a query is compared with; None: not known."""
        some = self.queries[:, :COUNTED]
        return 1.0 if self.promised.exact else self.store.share_read(some, top_k)

    def singly(self, top_k: int | None, first: int, count: int) -> list[float]:
        """Attend with one query of each head, `count` times; return the seconds of each."""
        return [self._seconds(self._some(first + i, 1), top_k) for i in range(count)]

    def window(self, top_k: int | None, first: int, queries: int) -> float:
        """Attend with many queries of each head at once; return the seconds."""
        return self._seconds(self._some(first, queries), top_k)

    def _ram(self) -> int:
        needed = resident() - self.before
        if self.leaves_rows:
            needed -= min(whole_blocks(self.store), self.store.ram_bytes)
        return max(0, needed)

    def _leaves_rows(self, setting: Setting) -> bool:
        rows = self.capture.rows(self.job.layer, 0, min(self.capture.info.tokens, OPENED))
        with self._created(self.folder / "opened", setting) as store:
            return leaves_rows(store, rows, self.folder / "memory")

    def _disk(self) -> int:
        temporary = 0 if self.leaves_rows else self.store.disk_bytes
        if self.job.opened is not None and self.job.costs:
            return temporary + directory_bytes(self.store)
        files = (self.folder / "store").rglob("*")
        return temporary + sum(file.stat().st_blocks * 512 for file in files if file.is_file())

    def _created(self, folder: Path, setting: Setting | None = None) -> MemoryStore:
        info = self.capture.info
        setting = setting or self.job.settings[0]
        return create_store(
            setting.store,
            num_heads=info.num_heads,
            head_dim=info.head_dim,
            device=self.job.store_device,
            directory=folder if self.promised.persistent and self.job.opened is None else None,
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
        """Return `count` queries of each head from `first` on, starting again after the last."""
        ids = torch.arange(first, first + count, device=self.queries.device)
        return self.queries[:, ids % self.queries.shape[1]]

    def _seconds(self, queries: Tensor, top_k: int | None) -> float:
        begin = self._now()
        self.store.attend(queries, top_k=top_k, scale=self.scale)
        return self._now() - begin

    def _now(self) -> float:
        if self.job.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()
