"""The order to build and ask a store, and the results that come back: they cross processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fotmem.measure.setting import Setting


@dataclass(frozen=True)
class StoreJob:
    """Which store to build, from which keys, and how to ask it."""

    capture: str
    """Folder of the capture."""
    layer: int
    settings: tuple[Setting, ...]
    """Settings of one store. It is built for the first, then tuned to those with the same build."""
    queries: int
    """Queries of a head that it is asked."""
    device: str
    """Device of queries and answers."""
    store_device: str
    threads: int | None
    sizes: tuple[int, ...]
    """Numbers of tokens at which the growing store is asked; the last one is its full size. Beyond
    the captured tokens the keys come again, each moved a little, to measure larger stores' costs.
    """
    top_k: int | None
    """Keys to find, in the answers at each size; None: attention to all keys."""
    same_queries: bool = False
    """Whether the queries are the same at all sizes, from all places of the text; otherwise they
    are those of the text that follows so many tokens."""
    costs: bool = True
    """Whether latency and RAM are measured."""
    opened: Setting | None = None
    """The setting by which a memory is opened whose directory keeps the keys and values, and the
    index beside them: that of the job with its whole budget. None: there is no directory."""


class StoreAnswer(NamedTuple):
    """The answers of a store to all queries."""

    scores: Tensor
    """Shape ``[H, Q, K]``."""
    out: Tensor
    """Shape ``[H, Q, D]``."""


class AllKeysAnswer(NamedTuple):
    """The answers of a store to all queries, by attention to all keys."""

    out: Tensor
    """Shape ``[H, Q, D]``."""
    estimated: Tensor | None
    """Shape ``[H, Q]``: the relative errors that the store expects; None: it cannot tell."""
    share_read: float | None


class SettingResult(NamedTuple):
    """A store of some size, tuned to one setting."""

    answer: StoreAnswer | AllKeysAnswer | None
    """None beyond the captured tokens."""
    share_read: float | None = None
    latency: float = math.nan
    """Seconds of one query of each head: the lowest of the medians of several turns."""


class SizeResult(NamedTuple):
    """A store of some size."""

    size: int
    inserts: list[float]
    """Seconds of each `add` since the previous size."""
    ram: int
    """Bytes that the process needs more than with the empty store; with `opened`, without the rows
    that stay in the memory's directory; 0 without `costs`."""
    disk: int
    """Bytes on disk: of the store's folder and of its temporary files; with `opened`, of what the
    memory's directory keeps instead."""
    settings: list[SettingResult]
    """One result for each of its settings."""
