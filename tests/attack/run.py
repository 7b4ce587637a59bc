"""Makes attacks one by one, in a process of their own."""

import multiprocessing
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

import psutil

from tests.attack import worker
from tests.attack.outcome import FOUND, Outcome
from tests.attack.target import Target

LOOK, STILL = 10, 60
"""Seconds between two checks, and the number of checks in a row that find no processor time used
before the processes count as hanging: ten minutes, enough even for a busy machine."""


class Attacker:
    """Attacks in a process. If it dies or hangs, that is a fault, and a new process goes on."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True)
        self._process: BaseProcess | None = None
        self._connection: Connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        self._folder.cleanup()

    def attempt(self, kind: str, seed: int) -> Outcome:
        """Make the attack that a seed decides."""
        process = self._process or self._begin()
        try:
            self._connection.send((kind, seed))
            if self._answers():
                outcome: Outcome = self._connection.recv()
                return outcome
            message = "hangs"
        except (EOFError, ConnectionError):
            process.join()
            message = f"the process ended with {process.exitcode}"
        self._end()
        return Outcome(FOUND, f"{kind} {seed}", message)

    def _begin(self) -> BaseProcess:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([worker.__name__])
        self._connection, theirs = context.Pipe()
        arguments = theirs, self._target, Path(self._folder.name)
        process = self._process = context.Process(target=worker.work, args=arguments)
        process.start()
        theirs.close()
        return process

    def _answers(self) -> bool:
        """Wait for the answer as long as the processes use processor time."""
        before, still = -1.0, 0
        while not self._connection.poll(LOOK):
            now = _processor_time()
            before, still = now, still + 1 if now == before else 0
            if still == STILL:
                return False
        return True

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _processor_time() -> float:
    """Add up the seconds of all processes that descend from this one."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # the process has ended
            times = process.cpu_times()
            total += times.user + times.system
    return total
