"""A process that writes to a store as its seed decides, reports each flush, and is killed."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple

from fotmem.stores import MemoryStore
from fotmem.testing.store.interrupting import stopped
from tests.attack.file_events import at_files, below
from tests.attack.state import State
from tests.attack.target import FIRST, MOST, Target, data

STEPS = 20
OPENED, BEGUN, FLUSHED, FAILED = "opened", "begun", "flushed", "failed"
"""Reports of a writer: with the state, or with the error."""


class Kill(NamedTuple):
    """When a writer is killed."""

    unit: str
    """``file``: before an event of a file; ``line``: before a line of Python; ``second``: by
    another process, which no seed repeats, but which may hit the middle of a system call."""
    at: float

    def __str__(self) -> str:
        """Describe the moment."""
        return f"{self.unit} {self.at:.3g}"


def write(reports: Connection, target: Target, directory: Path, seed: int, kill: Kill) -> None:
    """Write until killed; when all steps are done, end in the same way."""
    until_killed(lambda: run(reports, target, directory, Random(seed)), directory, kill)


def until_killed(work: Callable[[], object], directory: Path, kill: Kill) -> None:
    """Work on a directory until this process is killed, at the latest at the end of the work."""
    left = kill.at

    def count(event: str, path: str) -> None:
        nonlocal left
        left -= below(path, directory)
        if left <= 0:
            die()

    if kill.unit == "line":
        stopped(work, int(kill.at), stop=die)
    elif kill.unit == "file":
        with at_files(count):
            work()
    else:
        work()
    die()


def run(reports: Connection, target: Target, directory: Path, random: Random) -> None:
    """Make all steps, and report the states."""
    try:
        store = target.open(directory)
        reports.send((OPENED, State.of(store)))
        if not store.next_id:
            store.start_at(FIRST)
        for _ in range(STEPS):
            store = step(target, directory, store, random, reports)
    except Exception as error:
        reports.send((FAILED, f"{type(error).__name__}: {error}"))


def die() -> None:
    """Kill this process, which cannot tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


def step(
    target: Target, directory: Path, store: MemoryStore, random: Random, reports: Connection
) -> MemoryStore:
    """Add, forget, flush, or close and open again."""
    keys, values = data()
    rows = State.of(store).rows
    match random.choice(("add", "add", "add", "forget", "flush", "flush", "reopen")):
        case "add":
            end = min(rows + random.randrange(1, 300), MOST)
            store.add(keys[:, rows:end], values[:, rows:end])
        case "forget":
            store.forget(random.randrange(len(store) // 3 + 1))
        case flush:
            state = State.of(store)
            reports.send((BEGUN, state))
            store.flush() if flush == "flush" else store.close()
            reports.send((FLUSHED, state))
            if flush == "reopen":
                return target.open(directory)
    return store
