"""Lets a process try attacks, one by one."""

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
"""Seconds between two looks at processes, and in how many they took no processor time if they hang:
ten minutes, in which even the busiest machine lets all of them do something."""


class Attacker:
    """Tries attacks in a process; one that dies or hangs is a finding, and another follows it."""

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
        """Try what a seed decides."""
        process = self._process or self._begin()
        try:
            self._connection.send((kind, seed))
            if self._answers():
                outcome: Outcome = self._connection.recv()
                return outcome
            told = "hangs"
        except (EOFError, ConnectionError):
            process.join()
            told = f"the process ended with {process.exitcode}"
        self._end()
        return Outcome(FOUND, f"{kind} {seed}", told)

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
        """Wait for the answer, for as long as anything is done for it."""
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
    """Sum the seconds of all processes that this one started: attacks start some, too."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            times = process.cpu_times()
            total += times.user + times.system
    return total
