"""What a memory takes, and what was searched in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fotmem.disk import Traffic
from fotmem.memory.contents import Contents
from fotmem.memory.overflow import Overflow
from fotmem.stores.store import MemoryStore

TOKEN_BYTES = 24
"""A token id and its two characters, as int64."""


@dataclass(frozen=True)
class MemoryStats:
    """What a memory holds and takes, and the searches of all calls since it was attached."""

    tokens: int
    """Remembered, without those of removed documents."""
    documents: int
    """Without removed ones."""
    ram_bytes: int
    """Of tokens, keys, values and indexes in RAM, as far as libraries tell; without overflow."""
    overflow_tokens: int
    """In the overflow of the caches that somebody still has; beams may share some. All are counted
    by the model's default memory."""
    overflow_bytes: int
    """What these take in RAM, in all memory layers."""
    disk_bytes: int
    """Of all files in the memory's folder, and of the temporary files of its stores; what lies in
    object storage is not counted."""
    requests: int
    """Parts of files that were read from the memory's folder since it was opened; from object
    storage, requests that were sent."""
    bytes_read: int
    """What they brought."""
    searches: int
    """Searches of stores: one for each memory layer and window, or generated token."""
    hits: int
    """Keys that were asked for: of each query, top k, or all that are remembered."""
    search_seconds: float
    """In the stores, summed over threads."""
    cache_hit_rate: float | None
    """Share of chunks that stores on disk found in their caches; None: no store counts them."""


class SearchCounter:
    """Counts searches. Several threads may use it at a time."""

    def __init__(self) -> None:
        self.searches, self.hits, self.seconds = 0, 0, 0.0
        self._lock = threading.Lock()

    @contextmanager
    def counting(self, hits: int) -> Iterator[None]:
        """Count the block as a search for so many hits."""
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        with self._lock:
            self.searches += 1
            self.hits += hits
            self.seconds += seconds


def stats(contents: Contents, counter: SearchCounter, overflow: Overflow) -> MemoryStats:
    """See `Memory.stats`."""
    stores, text, kept = list(contents.stores.values()), contents.text, contents.directory
    own_files = 0 if kept is None else kept.storage.bytes_used()
    traffic = Traffic() if kept is None else kept.storage.traffic
    return MemoryStats(
        tokens=text.count_visible(),
        documents=sum(not each.is_removed for each in text.documents),
        ram_bytes=TOKEN_BYTES * len(text) + sum(store.ram_bytes for store in stores),
        overflow_tokens=overflow.tokens(next(iter(contents.stores))),
        overflow_bytes=overflow.ram_bytes(contents.stores),
        disk_bytes=own_files + sum(store.disk_bytes for store in stores),
        requests=traffic.requests,
        bytes_read=traffic.bytes_read,
        searches=counter.searches,
        hits=counter.hits,
        search_seconds=counter.seconds,
        cache_hit_rate=_cache_hit_rate(stores),
    )


def _cache_hit_rate(stores: list[MemoryStore]) -> float | None:
    counts = [store.cache_counts for store in stores]
    asked = sum(count[0] for count in counts if count is not None)
    found = sum(count[1] for count in counts if count is not None)
    return found / asked if asked else None
