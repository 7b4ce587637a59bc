"""The overflow of all sequences of a model."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakSet

from fotmem.stores.store import MemoryStore


class OverflowingCache(Protocol):
    """A `MemoryCache`, as far as this file knows it."""

    def overflow(self, layer: int) -> list[MemoryStore]:
        """List the stores of a memory layer, each once."""


class Overflow:
    """What has overflowed in the caches of a model that somebody still has.

    Several threads may use it at a time.
    """

    def __init__(self) -> None:
        self._caches: WeakSet[OverflowingCache] = WeakSet()
        self._lock = threading.Lock()

    def watch(self, cache: OverflowingCache) -> None:
        """Count the overflow of a cache from now on."""
        with self._lock:
            self._caches.add(cache)

    def tokens(self, layer: int) -> int:
        """Count the tokens of all sequences in a memory layer; beams may share some."""
        return sum(map(len, self._stores([layer])))

    def ram_bytes(self, layers: Iterable[int]) -> int:
        """Return what they take in RAM in these layers."""
        return sum(store.ram_bytes for store in self._stores(layers))

    def _stores(self, layers: Iterable[int]) -> list[MemoryStore]:
        with self._lock:
            caches = list(self._caches)
        return [store for cache in caches for layer in layers for store in cache.overflow(layer)]
