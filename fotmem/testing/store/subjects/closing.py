"""Tests of stores that were closed or dropped."""

import functools
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fotmem.errors import FotmemError
from fotmem.testing.store.expectations import fail
from fotmem.testing.store.garbage import new_garbage_only
from fotmem.testing.store.naive import draw
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import Stores, pair
from fotmem.testing.store.waiting import awaited

STORES = 2
"""Number of stores, each of which may start a thread."""


class Closing:
    """After closing."""

    def test_nothing_after_close(self, stores: Stores) -> None:
        """After `close`, every call raises a FotmemError."""
        keys, values = pair(40)
        store = stores.filled(keys, values)
        ids = store.search(keys[:, :2], 3).ids
        stores.close(store)
        calls: dict[str, Callable[[], object]] = {
            "search": functools.partial(store.search, keys[:, :2], 3),
            "attend": functools.partial(store.attend, keys[:, :2], top_k=3, scale=0.3),
            "attend to all": functools.partial(store.attend, keys[:, :2], top_k=None, scale=0.3),
            "keys": functools.partial(store.keys, ids),
            "values": functools.partial(store.values, ids),
            "add": functools.partial(store.add, keys, values),
            "forget": functools.partial(store.forget, 3),
            "copy": store.copy,
        }
        for name, call in calls.items():
            expect_refusal(FotmemError, call, f"{name} after close")

    @new_garbage_only()
    def test_threads_end(self, stores: Stores) -> None:
        """A store's threads end when it is closed or garbage-collected."""
        for close in (True, False):  # threads that all stores share may stay
            self._use(stores, close=close)
        before = _threads()
        for close in (True, False):
            for _ in range(STORES):
                self._use(stores, close=close)
            if not awaited(functools.partial(_fewer_threads, before)):
                names = sorted(thread.name for thread in threading.enumerate())
                fail(
                    f"{STORES} stores that were {'closed' if close else 'dropped'} left "
                    f"{len(_threads() - before)} threads running, which wait forever (Python "
                    f"knows {', '.join(names)}): end and join them in close, and when the "
                    "store is garbage"
                )

    @staticmethod
    def _use(stores: Stores, *, close: bool) -> None:
        keys = draw(1, 4_200, 4)
        store = stores.filled(keys, keys, cuts=(4_000,))
        stores.release(store)
        store.search(keys[:, :3], 4)
        store.attend(keys[:, :3], top_k=4, scale=torch.pi)
        store.flush()
        if close:
            store.close()


def _fewer_threads(before: set[str], seconds: float) -> bool:
    """Wait until the threads that are not in `before` have ended."""
    gc.collect()
    for _ in range(100):
        if len(_threads() - before) < STORES:
            return True
        time.sleep(seconds / 100)
    return False


def _threads() -> set[str]:
    """Name all threads of this process; on Linux, those of native libraries, too."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        return {task.name for task in tasks.iterdir()}
    return {str(thread.ident) for thread in threading.enumerate()}
