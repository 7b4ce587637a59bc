"""Searches in threads while another one adds."""

import functools
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import fail
from fotmem.testing.store.interleaved import PAUSE, together

READERS = 2
LONGEST_WAIT, ALL_WAITS = 0.5, 2.0
"""Seconds that adding waits in vain for the readers, at most: at one line, and in all."""


class ConcurrentHits(NamedTuple):
    """An answer, and the number of keys before the search."""

    before: int
    hits: Hits


def found_while_adding(
    store: MemoryStore, pieces: Sequence[tuple[Tensor, Tensor]], queries: Tensor, top_k: int
) -> list[ConcurrentHits]:
    """Add keys and values piece by piece, while two threads search and attend all the time.

    Before each of its lines, adding waits until a thread has searched and attended, however slow
    the machine is. It does not wait for long where the store lets no other thread in.

    Returns
    -------
    list of ConcurrentHits
        Each answer that differs from the previous one of its thread.
    """
    done = threading.Event()
    found: list[ConcurrentHits] = []
    rounds = [0] * READERS
    left = ALL_WAITS

    def wait() -> None:
        nonlocal left
        ended = [each + 2 for each in rounds]  # the first of the two may have begun earlier
        begin = time.monotonic()
        while not any(map(int.__ge__, rounds, ended)):
            time.sleep(PAUSE)
            waited = time.monotonic() - begin
            if waited > min(LONGEST_WAIT, left):
                left -= waited
                return

    def add() -> None:
        try:
            for keys, values in pieces:
                store.add(keys.clone(), values.clone())
        finally:
            done.set()

    def ask(reader: int) -> None:
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
            rounds[reader] += 1

    readers = [functools.partial(ask, reader) for reader in range(READERS)]
    together(store, [add, *readers], first_waits=wait)
    return found
