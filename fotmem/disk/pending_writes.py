"""Files that wait in RAM, to be written at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, wait

MOST = 2**26
"""Bytes from which on files do not wait any longer."""


class PendingWrites:
    """Files that are not written yet. What cannot be written stays, and is tried again.

    Several threads may use it at a time.

    Parameters
    ----------
    put : callable
        Writes a file.
    executor : Executor
        Runs `put`.
    """

    def __init__(self, put: Callable[[str, bytes], object], executor: Executor) -> None:
        self._put, self._executor = put, executor
        self._files: dict[str, bytes] = {}
        self._size = 0
        self._lock = threading.RLock()

    def add(self, key: str, data: bytes) -> None:
        """Let a file wait, or write it with all others if they are many."""
        with self._lock:
            self._drop(key)
            self._files[key] = data
            self._size += len(data)
            if self._size > MOST:
                self.write_out()

    def remove(self, path: str) -> None:
        """Drop a file, or all below a path."""
        with self._lock:
            for key in [*self._files]:
                if key == path or key.startswith(f"{path}/"):
                    self._drop(key)

    def write_out(self) -> None:
        """Write all files; raise what the first one raised that could not be written."""
        with self._lock:
            puts = {
                key: self._executor.submit(self._put, key, data)
                for key, data in self._files.items()
            }
            wait(puts.values())
            for key, put in puts.items():
                if put.exception() is None:
                    self._drop(key)
            for put in puts.values():
                put.result()

    def _drop(self, key: str) -> None:
        self._size -= len(self._files.pop(key, b""))
