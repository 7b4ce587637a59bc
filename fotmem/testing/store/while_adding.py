"""Searches in threads while another one adds."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import fail
from fotmem.testing.store.interleaved import together

READERS = 2


class ConcurrentHits(NamedTuple):
    """An answer, and the number of keys before the search."""

    before: int
    hits: Hits


def found_while_adding(
    store: MemoryStore, pieces: Sequence[tuple[Tensor, Tensor]], queries: Tensor, top_k: int
) -> list[ConcurrentHits]:
    """Add keys and values piece by piece, while two threads search and attend all the time.

    Returns
    -------
    list of ConcurrentHits
        Each answer that differs from the previous one of its thread.
    """
    done = threading.Event()
    found: list[ConcurrentHits] = []

    def add() -> None:
        try:
            for keys, values in pieces:
                store.add(keys.clone(), values.clone())
        finally:
            done.set()

    def ask() -> None:
        last, known = False, None
        while not last:
            last = done.is_set()
            before = len(store)
            hits = store.search(queries, top_k)
            if known is None or not all(map(torch.equal, hits, known)):
                found.append(ConcurrentHits(before, Hits(*(each.clone() for each in hits))))
                known = found[-1].hits
            part = store.attend(queries, top_k=top_k, scale=0.3)
            if not (part.out.isfinite().all() and part.lse.isfinite().all()):
                fail("attend while adding returned NaN or Inf")

    together([add, *[ask] * READERS], first_pauses=1e-3)
    return found
