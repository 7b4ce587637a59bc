"""Kills a process that reads into a memory's directory, again and again, and opens what it left."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Self

from fotmem.directory.committed import read_manifest
from fotmem.directory.facts import DocumentEntry
from fotmem.directory.manifest import MemoryManifest
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import ROOT, GroupFiles
from fotmem.disk.storage import LOCK
from tests.attack.crash import states_after
from tests.attack.outcome import FOUND, HELD, Outcome, outcome_of
from tests.attack.writer import BEGUN, FAILED, FLUSHED, OPENED, Kill, until_killed
from tests.memory_rows import names

KILLS = 10
"""Kills of an attack, all of one directory."""
MOMENTS = {"file": 2000, "line": 20_000}
"""Most events of files, or lines of Python, before a process is killed."""
SECONDS = 0.4
SPACE, ALLOWANCE = 1.3, 2**16
"""Bytes on disk for each byte of the tokens, keys and values that the manifest names, those of
removed documents included until the next compaction; and bytes beside these, for descriptions."""
INDEX = re.compile(r"indexes/[a-z-]+/\d\d")


class State(NamedTuple):
    """What a commit holds."""

    rows: int = 0
    documents: tuple[tuple[object, ...], ...] = ()
    """Name, first and last token, checksum, and whether it is complete, removed, replacing."""

    @classmethod
    def of(cls, manifest: MemoryManifest) -> Self:
        """Return the state of a commit."""
        return cls.with_documents(manifest.rows, manifest.documents)

    @classmethod
    def with_documents(cls, rows: int, documents: Sequence[DocumentEntry]) -> Self:
        """Return the state of a commit of these rows and documents."""
        facts = (
            (
                *(each.name, each.first, each.stop, each.sha256),
                *(each.is_complete, each.is_removed, each.is_replacement),
            )
            for each in documents
        )
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

    def beside(self, directory: Path) -> Callable[[], None]:
        """Open the directory for reading, beside a writer; return a check of what it shows."""
        return lambda: None

    def mend(self, directory: Path) -> None:
        """Repair what the process has damaged before it was killed."""


def attack(reader: Reader, random: Random, folder: Path) -> Outcome:
    """Kill readers of a directory: it must be as of the last commit, or of the one in progress."""
    kills = [_drawn(random) for _ in range(KILLS)]
    tried = f"killed at {', '.join(map(str, kills))}"

    def attempt() -> None:
        allowed, directory = [State()], folder / "memory"
        for kill in kills:
            check = reader.beside(directory) if random.random() < 0.3 else lambda: None
            allowed = states_after(
                read, (reader, directory, random.randrange(2**32)), kill, allowed
            )
            check()
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
    commit = GroupFiles.commit

    def reported(self: GroupFiles[Any], manifest: MemoryManifest, groups: Any) -> None:
        state = State.of(manifest)
        reports.send((BEGUN, state))
        commit(self, manifest, groups)
        reports.send((FLUSHED, state))

    def opened(found: MemoryDirectory) -> None:
        reports.send((OPENED, State.of(found.manifest)))

    def work() -> None:
        try:
            reader.read(directory, seed, opened)
        except Exception as error:
            reports.send((FAILED, f"{type(error).__name__}: {error}"))

    GroupFiles.commit = reported  # type: ignore[method-assign,assignment]
    until_killed(work, directory, kill)


def expect_one_of(reader: Reader, path: Path, allowed: list[State]) -> State:
    """Open what a killed process left: the last commit, or the one in progress, as a whole."""
    state = State.of(read_manifest(path))
    assert state in allowed, f"reopened with {state}, not {' or '.join(map(str, allowed))}"
    reader.mend(path)
    directory = MemoryDirectory.open(path)
    reader.expect(directory)
    return State.of(directory.manifest)


def expect_tidy(reader: Reader, path: Path) -> State:
    """Expect that a writer has committed what is right, and removed all that is not needed."""
    directory = MemoryDirectory.open(path)
    reader.expect(directory)
    there = {name for name in names(path) if not INDEX.fullmatch(name)}
    assert not (strays := there - directory.files() - {LOCK}), f"left: {sorted(strays)[:3]}"
    used = sum((path / name).stat().st_size for name in there)
    raw = reader.raw_bytes(len(directory))
    assert used <= SPACE * raw + ALLOWANCE, f"{used} bytes on disk for {raw}"
    return State.of(directory.manifest)
