"""Kills a process that reads into a memory's directory, again and again, and opens what it left."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple, Self

from fotmem.directory.facts import DocumentEntry
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import ROOT
from fotmem.disk.storage import LOCK
from tests.attack.crash import states_after
from tests.attack.outcome import FOUND, HELD, Outcome, outcome_of
from tests.attack.writer import BEGUN, FAILED, FLUSHED, OPENED, Kill, until_killed
from tests.memory_rows import names

KILLS = 10
"""Kills of an attack, all of one directory."""
MOMENTS = {"file": 600, "line": 8000}
"""Most events of files, or lines of Python, before a process is killed."""
SECONDS = 0.2
SPACE, ALLOWANCE = 1.3, 2**16
"""Bytes on disk for each byte of tokens, keys and values; and beside these."""


class State(NamedTuple):
    """What a commit holds."""

    rows: int = 0
    documents: tuple[tuple[str, int, int, bool], ...] = ()
    """Name, first and last token, and whether it is complete."""

    @classmethod
    def of(cls, directory: MemoryDirectory) -> Self:
        """Return the state of the last commit that was opened or made."""
        return cls.with_documents(directory.manifest.rows, directory.manifest.documents)

    @classmethod
    def with_documents(cls, rows: int, documents: Sequence[DocumentEntry]) -> Self:
        """Return the state of a commit of these rows and documents."""
        facts = ((each.name, each.first, each.stop, each.is_complete) for each in documents)
        return cls(rows, tuple(facts))


class Reader(ABC):
    """What is read into a directory."""

    @abstractmethod
    def read(self, directory: Path, seed: int, opened: Callable[[MemoryDirectory], None]) -> None:
        """Open or begin the directory, tell that it is `opened`, and read to the end."""

    @abstractmethod
    def read_on(self, directory: Path, seed: int) -> None:
        """Open or begin the directory, read a little, commit and close it."""

    @abstractmethod
    def expect(self, directory: MemoryDirectory) -> None:
        """Expect what an uninterrupted reading gives, as far as the reading came."""

    @abstractmethod
    def raw_bytes(self, rows: int) -> int:
        """Return the bytes of the tokens, keys and values of some rows."""


def attack(reader: Reader, random: Random, folder: Path) -> Outcome:
    """Kill readers of a directory: it must be as of the last commit, or of the one in progress."""
    kills = [_drawn(random) for _ in range(KILLS)]
    tried = f"killed at {', '.join(map(str, kills))}"

    def attempt() -> None:
        allowed, directory = [State()], folder / "memory"
        for kill in kills:
            allowed = states_after(
                read, (reader, directory, random.randrange(2**32)), kill, allowed
            )
            if (directory / ROOT).exists() or allowed != [State()]:
                allowed = [expect_one_of(reader, directory, allowed)]
            if random.random() < 0.3:
                reader.read_on(directory, random.randrange(2**32))
                allowed = [expect_tidy(reader, directory)]

    outcome = outcome_of(tried, attempt)
    return outcome if outcome.kind == HELD else Outcome(FOUND, tried, outcome.message)


def _drawn(random: Random) -> Kill:
    """Draw a moment, early ones as often as late ones."""
    unit = random.choice(("file", "file", "line", "second"))
    if unit == "second":
        return Kill(unit, random.uniform(0, SECONDS))
    return Kill(unit, math.ceil(MOMENTS[unit] ** random.random()))


def read(reports: Connection, reader: Reader, directory: Path, seed: int, kill: Kill) -> None:
    """Read until killed, and report the commits."""
    commit = MemoryDirectory.commit

    def reported(self: MemoryDirectory, documents: Sequence[DocumentEntry]) -> None:
        state = State.with_documents(len(self), documents)
        reports.send((BEGUN, state))
        commit(self, documents)
        reports.send((FLUSHED, state))

    def work() -> None:
        try:
            reader.read(directory, seed, lambda found: reports.send((OPENED, State.of(found))))
        except Exception as error:
            reports.send((FAILED, f"{type(error).__name__}: {error}"))

    MemoryDirectory.commit = reported  # type: ignore[method-assign]
    until_killed(work, directory, kill)


def expect_one_of(reader: Reader, path: Path, allowed: list[State]) -> State:
    """Open what a killed process left: the last commit, or the one in progress, as a whole."""
    directory = MemoryDirectory.open(path)
    state = State.of(directory)
    assert state in allowed, f"reopened with {state}, not {' or '.join(map(str, allowed))}"
    reader.expect(directory)
    return state


def expect_tidy(reader: Reader, path: Path) -> State:
    """Expect that a writer has committed what is right, and removed all that is not needed."""
    directory = MemoryDirectory.open(path)
    reader.expect(directory)
    assert not (strays := names(path) - directory.files() - {LOCK}), f"left: {sorted(strays)[:3]}"
    used = sum((path / name).stat().st_size for name in names(path))
    raw = reader.raw_bytes(len(directory))
    assert used <= SPACE * raw + ALLOWANCE, f"{used} bytes on disk for {raw}"
    return State.of(directory)
