"""A store in a process of its own, seen from the one that measures."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from fotmem.bench.report import Setting
from fotmem.bench.worker import Grown, Job, serve

STARTS = 30.0
"""Seconds in which a process has loaded its libraries, and tried its store, or else never will."""

GUARD = 'if __name__ == "__main__":'
"""Without it, a script would run once more in each of its processes."""


class StoreFailedError(Exception):
    """A store could not do what it was asked; says why."""


@functools.cache
def _context() -> Any:
    """Return how processes are started: where that is to be had, with all that takes time loaded.

    They are forked from a server that did nothing but load it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    return context


class Worker:
    """A store in a process and a temporary folder of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = tempfile.TemporaryDirectory(
            prefix="fotmem-bench-", ignore_cleanup_errors=True
        )
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, job, self._folder.name), daemon=True
        )
        self._process.start()
        theirs.close()
        self.settings: list[Setting] = []
        """Those that the store can be tuned to; known once it grows."""

    def grown(self, patience: Sequence[float] | None = None) -> Iterator[Grown]:
        """Yield the store at each of its sizes; no more once it took longer, in seconds, to one."""
        if not self._waited(None if patience is None else max(patience) + STARTS):
            return
        self.settings = self._received()
        begin = time.monotonic()
        for place in range(len(self._job.sizes)):
            end = None if patience is None else begin + patience[place]
            if not self._waited(None if end is None else max(0.0, end - time.monotonic())):
                return
            yield self._received()

    def _waited(self, seconds: float | None) -> bool:
        """Wait until there is an answer; where there is none in time, end the process."""
        there: bool = self._connection.poll(seconds)
        if not there:
            self._process.terminate()
        return there

    def ask(self, name: str, setting: Setting, *arguments: Any) -> Any:
        """Let the store, tuned to one of its settings, do something."""
        self._connection.send((name, setting, arguments))
        return self._received()

    def close(self) -> None:
        """End the process."""
        try:
            self._connection.send(None)
            self._process.join(10)
        except OSError:
            pass
        finally:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _end(self) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()
        self._folder.cleanup()

    def _received(self) -> Any:
        try:
            found = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            reason = "was killed: too little memory?" if code == -9 else f"ended with code {code}"
            if code == 1 and not self.settings:
                reason += f" before it began; a script must call this under {GUARD}"
            raise StoreFailedError(f"its process {reason}") from None
        if isinstance(found, Exception):
            raise StoreFailedError(str(found))
        return found
