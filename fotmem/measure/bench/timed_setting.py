"""A built store, and one of its settings while it is asked and timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from fotmem.measure.bench.all_keys import all_keys_figures
from fotmem.measure.bench.figures import Figure, Truth, interval, search_figures
from fotmem.measure.bench.process import Worker
from fotmem.measure.bench.report import AllKeysRow, BuildCost, Row
from fotmem.measure.bench.store_job import AllKeysAnswer, StoreAnswer
from fotmem.measure.setting import Setting

SINGLE = 30
"""Single queries of a round."""
WINDOW = 512
"""Queries of each head at once; they repeat where the capture has fewer."""


class BuiltStore:
    """A built store in its process, and the cost of building it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.sizes = list(worker.results())
        self.settings = worker.settings
        inserts = [seconds for each in self.sizes for seconds in each.inserts]
        last = self.sizes[-1]
        self.ram = last.ram
        self.cost = BuildCost(
            seconds=sum(inserts),
            median_insert_latency=median(inserts),
            max_insert_latency=max(inserts),
            ram=last.ram / last.size,
            disk=last.disk / last.size,
        )


class TimedSetting(ABC):
    """One setting of a built store with one `top_k`, and its times so far."""

    def __init__(self, built: BuiltStore, setting: Setting, top_k: int | None) -> None:
        self.built, self.setting, self.top_k = built, setting, top_k
        self._singly: list[list[float]] = []
        self._windows: list[float] = []

    @abstractmethod
    def ask(self) -> None:
        """Answer all queries; this also warms the store up."""

    @abstractmethod
    def row(
        self, layer: int, batch: int, exact: Truth, reference: TimedSetting | None
    ) -> Row | AllKeysRow:
        """Return the figures; times also in units of the reference's in the same rounds."""

    def time(self, number: int) -> None:
        """Time the setting in a round."""
        self._singly.append(self._order("singly", number * SINGLE, SINGLE))
        self._windows.append(self._order("window", number * WINDOW, WINDOW))

    def _times(self, reference: TimedSetting | None) -> dict[str, Any]:
        singly, windows = torch.tensor(self._singly), torch.tensor(self._windows)
        times: dict[str, Any] = {
            f"latency_p{percent}": interval(partial(np.percentile, q=percent), singly)
            for percent in (50, 95, 99)
        }
        times["window_latency"] = interval(np.median, windows)
        times["window_queries"] = WINDOW
        if reference is not None:
            medians = (list(map(median, unit._singly)) for unit in (self, reference))
            times["relative_latency"] = _ratio(*medians)
            times["relative_window_latency"] = _ratio(self._windows, reference._windows)
        return times

    def _order(self, name: str, *arguments: int) -> Any:
        return self.built.worker.ask(name, self.setting, self.top_k, *arguments)


class TimedSearch(TimedSetting):
    """Attention to the `top_k` keys that a search finds."""

    top_k: int
    _answer: StoreAnswer
    _share_read: float | None

    def ask(self) -> None:
        """Search with all queries, and attend to what is found."""
        self._answer = self._order("answer")
        self._share_read = self._order("share_read")
        self._order("window", 0, WINDOW)

    def row(self, layer: int, batch: int, exact: Truth, reference: TimedSetting | None) -> Row:
        """Return the figures of what was found."""
        return Row(
            setting=self.setting,
            layer=layer,
            top_k=self.top_k,
            **search_figures(*self._answer, exact)._asdict(),
            share_read=self._share_read,
            **self._times(reference),
            build=self.built.cost,
            batch=batch,
        )


class TimedAttention(TimedSetting):
    """Attention to all keys."""

    _answer: AllKeysAnswer

    def __init__(self, built: BuiltStore, setting: Setting) -> None:
        super().__init__(built, setting, None)

    def ask(self) -> None:
        """Attend with all queries."""
        self._answer = self._order("all_keys_answer")
        self._order("window", 0, WINDOW)

    def row(
        self, layer: int, batch: int, exact: Truth, reference: TimedSetting | None
    ) -> AllKeysRow:
        """Return the figures of the output."""
        out, estimated, share_read = self._answer
        return AllKeysRow(
            setting=self.setting,
            layer=layer,
            **all_keys_figures(out, estimated, exact)._asdict(),
            share_read=share_read,
            **self._times(reference),
            batch=batch,
        )


def _ratio(mine: Sequence[float], others: Sequence[float]) -> Figure:
    """Divide round by round: other load slows down both sides of a round."""
    return interval(np.median, torch.tensor(mine) / torch.tensor(others))
