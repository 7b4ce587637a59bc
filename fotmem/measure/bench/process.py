"""Starts the process of a store, talks to it and ends it."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from time import monotonic
from typing import Any, Self

from fotmem.errors import StorageError
from fotmem.interrupts import interrupts_deferred
from fotmem.measure.bench.store_job import SizeResult, StoreJob
from fotmem.measure.bench.worker import serve
from fotmem.measure.setting import Setting

STARTS = 30.0
"""Seconds that a process may take to load its libraries and to try its store."""
LOOK = 0.1
"""Seconds between two looks at the clock."""
PATIENCE = 10.0
"""Seconds that a process may take to end."""

GUARD = 'if __name__ == "__main__":'
"""A script without it would run again in each of its processes."""


class StoreFailedError(Exception):
    """A store could not carry out an order; the message says why."""


@functools.cache
def _context() -> Any:
    """Return the way to start processes: where it exists, a fork server with loaded libraries.

    The server does nothing but load the libraries, and ends with this process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    atexit.register(_end_server)
    resource_tracker.ensure_running()  # it would let Ctrl-C through again
    with _without_ctrl_c():
        try:
            forkserver.ensure_running()
        except OSError as error:  # such as a path too long for a socket
            raise StorageError(
                f"processes cannot be started from {tempfile.gettempdir()} ({error}): set TMPDIR "
                "to a writable folder with a shorter path"
            ) from error
    loaded = context.Process(target=_nothing, daemon=True)
    loaded.start()  # waits for it
    loaded.join()
    return context


def _nothing() -> None:
    pass


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all of them.

    They end with the process that started them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_server() -> None:
    """End the server at once: by itself it would first unload all its libraries."""
    import psutil

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "multiprocessing.forkserver" in " ".join(child.cmdline()):
                child.terminate()
                child.wait(PATIENCE)


class Worker:
    """A store in a process and a temporary folder of its own."""

    def __init__(self, job: StoreJob) -> None:
        self._job = job
        self._started = ExitStack()
        self.settings: list[Setting] = []
        """The settings that the store can be tuned to; known once it grows."""
        try:
            with interrupts_deferred():
                self._start()
        except BaseException:
            self.end()
            raise

    def _start(self) -> None:
        folder = self._started.enter_context(
            tempfile.TemporaryDirectory(prefix="fotmem-bench-", ignore_cleanup_errors=True)
        )
        context = _context()
        self._connection, theirs = context.Pipe()
        self._started.enter_context(self._connection)
        with theirs, _without_ctrl_c():
            self._process = context.Process(
                target=serve, args=(theirs, self._job, folder), daemon=True
            )
            self._process.start()
        self._started.callback(_end, self._process)

    def results(self, patience: Sequence[float] | None = None) -> Iterator[SizeResult]:
        """Yield a result at each size; stop where the store needs more than `patience` seconds."""
        if not self._waited(None if patience is None else monotonic() + max(patience) + STARTS):
            return
        self.settings = self._received()
        begin = monotonic()
        for place in range(len(self._job.sizes)):
            if not self._waited(None if patience is None else begin + patience[place]):
                return
            yield self._received()

    def _waited(self, end: float | None) -> bool:
        """Wait for an answer; end the process if none comes in time."""
        while end is None or monotonic() < end:
            if self._connection.poll(LOOK):
                return True
        self._process.terminate()
        return False

    def ask(self, name: str, setting: Setting, *arguments: Any) -> Any:
        """Give an order to the store, tuned to one of its settings; return the answer."""
        self._connection.send((name, setting, arguments))
        return self._received()

    def close(self) -> None:
        """Close the store, then end its process."""
        try:
            self._connection.send(None)
            self._process.join(PATIENCE)
        except OSError:
            pass
        finally:
            self.end()

    def end(self) -> None:
        """End the process, whatever it is doing, and remove its folder."""
        with interrupts_deferred():
            self._started.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self.end()

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


def _end(process: Any) -> None:
    process.terminate()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
