"""Kills a writer, once or several times in a row, and opens what it left."""

import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, HELD, Outcome, outcome_of
from tests.attack.state import State
from tests.attack.target import MOST, Target, strays
from tests.attack.writer import BEGUN, FAILED, OPENED, Kill, write

MOMENTS = {"file": 4000, "line": 200_000}
"""Most events of files, or lines of Python, before a writer is killed."""
SECONDS = 0.5
S = TypeVar("S")
"""A state of what is written."""


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Kill writers of one directory: it must be as of the last flush, or of the one in progress."""
    directory, kills = folder / "store", [draw(random) for _ in range(random.choice((1, 1, 2, 3)))]
    tried = f"killed at {', '.join(map(str, kills))}"

    def attempt() -> None:
        allowed = [State()]
        for kill in kills:
            allowed = killed(target, directory, allowed, random.randrange(2**32), kill)
        read_on(target, directory, allowed)

    outcome = outcome_of(tried, attempt)
    if outcome.kind != HELD:
        return Outcome(FOUND, tried, outcome.message)
    if left := strays(directory):
        return Outcome(FOUND, tried, f"the next writer left {', '.join(left[:3])}")
    return outcome


def draw(random: Random) -> Kill:
    """Draw a moment, early ones as often as late ones."""
    unit = random.choice(("file", "file", "line", "second"))
    if unit == "second":
        return Kill(unit, random.uniform(0, SECONDS))
    return Kill(unit, math.ceil(MOMENTS[unit] ** random.random()))


def read_on(target: Target, directory: Path, allowed: list[State]) -> None:
    """Open what a killed writer left, and continue."""
    with target.open(directory) as store:
        state = State.of(store)
        assert state in allowed, f"reopened with {state}, not {' or '.join(map(str, allowed))}"
        upto = min(state.rows + 300, MOST)
        target.read_on(store, rows=state.rows, forgotten=state.forgotten, upto=upto)
    with target.open(directory) as store:
        target.expect(store, rows=upto, forgotten=state.forgotten)


def killed(
    target: Target, directory: Path, allowed: list[State], seed: int, kill: Kill
) -> list[State]:
    """Let a process write until it is killed; return the states that the disk may hold."""
    return states_after(write, (target, directory, seed), kill, allowed)


def states_after(
    work: Callable[..., None], arguments: tuple[Any, ...], kill: Kill, allowed: list[S]
) -> list[S]:
    """Let a process work until it is killed; return the states that the disk may hold.

    The process calls ``work(reports, *arguments, kill)``, and reports `OPENED`, `BEGUN`, `FLUSHED`
    and `FAILED`.
    """
    context = multiprocessing.get_context("fork")  # the others import torch each time
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, *arguments, kill))
    process.start()
    theirs.close()
    if kill.unit == "second":
        ours.poll(None)
        time.sleep(kill.at)
        process.kill()
    try:
        while True:
            report, state = ours.recv()
            assert report != FAILED, f"a writer failed after {allowed}: {state}"
            if report == OPENED:
                assert state in allowed, f"a writer found {state}, not {allowed}"
            allowed = [allowed[0], state] if report == BEGUN else [state]
    except EOFError:
        process.join()
    return allowed
