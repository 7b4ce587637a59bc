"""Kills a process that compacts a memory's directory, again and again, and opens what it left."""

from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import NamedTuple, Self
from unittest.mock import patch

import torch

from fotmem.directory import memory_directory
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk.storage import LOCK
from tests.attack.crash import draw as drawn
from tests.attack.crash import states_after
from tests.attack.memory_crash import KILLS
from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, HELD, Outcome, outcome_of
from tests.attack.rows import BLOCK, SHAPES
from tests.attack.target import Target
from tests.attack.writer import BEGUN, FAILED, FLUSHED, Kill, until_killed
from tests.memory_rows import FACTS, Rows, assert_equal_rows, document, draw, names

DOCUMENTS, LONGEST = 6, 150
"""Documents that are read between kills, and most tokens of each."""


class Read(NamedTuple):
    """A document; its rows depend on its number."""

    number: int
    tokens: int
    is_removed: bool = False

    def rows(self) -> Rows:
        """Return the rows of all its tokens."""
        return draw(self.number * LONGEST, self.number * LONGEST + self.tokens, SHAPES)


class State(NamedTuple):
    """The documents of a commit."""

    documents: tuple[Read, ...] = ()

    @classmethod
    def of(cls, directory: MemoryDirectory) -> Self:
        """Return the state of the last commit."""
        entries = directory.manifest.documents
        return cls(tuple(Read(int(e.name), len(e), e.is_removed) for e in entries))

    def compacted(self) -> Self:
        """Return the state without what is removed."""
        return type(self)(tuple(each for each in self.documents if not each.is_removed))


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Kill compactions of one directory: each is done as a whole, or not at all."""
    kills = [drawn(random) for _ in range(KILLS)]
    tried = f"killed at {', '.join(map(str, kills))}"

    def attempt() -> None:
        path = folder / "memory"
        with patch.object(memory_directory, "BLOCK", BLOCK):
            MemoryDirectory.create(path, SHAPES, FACTS).close()
        for kill in kills:
            state = _read(path, random)
            allowed = states_after(work, (path, state), kill, [state])
            state = expect_one_of(path, allowed)
            if random.random() < 0.3:
                compact(path)
                state = expect_one_of(path, [state.compacted()])
                left = names(path) - MemoryDirectory.open(path).files() - {LOCK}
                assert not left, f"left: {sorted(left)[:3]}"

    outcome = outcome_of(tried, attempt)
    return outcome if outcome.kind == HELD else Outcome(FOUND, tried, outcome.message)


def work(reports: Connection, directory: Path, state: State, kill: Kill) -> None:
    """Compact until killed, and report it."""

    def compacting() -> None:
        try:
            reports.send((BEGUN, state.compacted()))
            compact(directory)
            reports.send((FLUSHED, state.compacted()))
        except Exception as error:
            reports.send((FAILED, f"{type(error).__name__}: {error}"))

    until_killed(compacting, directory, kill)


def expect_one_of(path: Path, allowed: list[State]) -> State:
    """Open what a killed process left: what was there before, or the compacted memory."""
    directory = MemoryDirectory.open(path)
    state = State.of(directory)
    assert state in allowed, f"reopened with {state}, not {' or '.join(map(str, allowed))}"
    parts = [draw(0, 0, SHAPES), *(each.rows() for each in state.documents)]
    ids, starts, stops = (torch.cat([part[column] for part in parts]) for column in range(3))
    layers = {
        layer: (
            torch.cat([part[3][layer][0] for part in parts], 1),
            torch.cat([part[3][layer][1] for part in parts], 1),
        )
        for layer in SHAPES
    }
    assert_equal_rows(directory, (ids, starts, stops, layers))
    return state


def _read(path: Path, random: Random) -> State:
    """Read some documents, and remove some of all."""
    directory = MemoryDirectory.open(path, writable=True)
    state = State.of(directory)
    begin = max((each.number for each in state.documents), default=-1) + 1
    documents = [
        *state.documents,
        *(Read(begin + n, random.randrange(LONGEST)) for n in range(random.randrange(DOCUMENTS))),
    ]
    for each in documents[len(state.documents) :]:
        directory.append(*each.rows())
    documents = [
        each._replace(is_removed=each.is_removed or random.random() < 0.4) for each in documents
    ]
    stop, entries = 0, []
    for each in documents:
        first, stop = stop, stop + each.tokens
        entry = document(first, stop, f"{each.number}")
        entries.append(entry.model_copy(update={"is_removed": each.is_removed}))
    directory.commit(entries)
    directory.close()
    return State(tuple(documents))
