"""A store in a process of its own, seen from the one that measures."""

from __future__ import annotations

import multiprocessing
from typing import Any, Self

from fotmem.bench.report import Setting
from fotmem.bench.worker import Grown, Job, serve


class StoreFailedError(Exception):
    """A store could not do what it was asked; says why."""


class Worker:
    """A store in a process of its own."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.settings: list[Setting] = self._received()
            self.grown: list[Grown] = [self._received() for _ in job.sizes]
            self.disk: int = self._received()
        except BaseException:
            self._end()
            raise

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

    def _received(self) -> Any:
        try:
            found = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            reason = "was killed: too little memory?" if code == -9 else f"ended with code {code}"
            raise StoreFailedError(f"its process {reason}") from None
        if isinstance(found, Exception):
            raise StoreFailedError(str(found))
        return found
