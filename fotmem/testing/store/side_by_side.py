"""Tests whether two calls can run inside a store at the same time."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from fotmem.stores.store import MemoryStore
from fotmem.testing.store.interleaved import packages_of
from fotmem.testing.store.waiting import ended

RUNS = 3
"""Runs of a call that find the line where it spends most time."""


class Line(NamedTuple):
    """A line that a call comes to, for the `times`-th time."""

    file: str
    function: str
    number: int
    times: int

    def __str__(self) -> str:
        return f"{self.function}, line {self.number} of {self.file}"


def kept_waiting(
    store: MemoryStore, call: Callable[[], object], other: Callable[[], object]
) -> Line | None:
    """Return the line at which `call` keeps `other` waiting; None if it does not.

    The call stops at the line that takes longest, which is where it searches or calls the library
    that does; meanwhile the other call must end in its own thread. Short sections under a lock are
    allowed.
    """
    packages = packages_of(store)
    call()
    times: list[dict[Line, float]] = [_times(packages, call) for _ in range(RUNS)]
    least = {line: min(run.get(line, 0.0) for run in times) for line in times[0]}
    longest = max(least, key=lambda line: least[line])
    thread = threading.Thread(target=other, daemon=True)
    waited: list[bool] = []

    def hold(line: Line) -> None:
        if line == longest and not waited:
            thread.start()
            waited.append(not ended(thread))

    _traced(packages, call, hold)
    if waited:
        thread.join()
    return longest if any(waited) else None


def _times(packages: set[str], call: Callable[[], object]) -> dict[Line, float]:
    """Measure the processor time of each line, without the functions that it calls.

    Not the time of the clock: on a busy machine a thread may lose the processor at any line.
    """
    times: dict[Line, float] = {}
    last: list[tuple[Line, float]] = []

    def note(line: Line) -> None:
        now = time.thread_time()
        for before, begun in last:
            times[before] = now - begun
        last[:] = [(line, time.thread_time())]

    _traced(packages, call, note)
    note(Line("", "", 0, 0))
    return times


def _traced(packages: set[str], call: Callable[[], object], at: Callable[[Line], None]) -> None:
    """Run a call, and call `at` before each of its lines in the store's packages."""
    seen: Counter[tuple[str, str, int]] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in packages or module.startswith("fotmem.testing."):
            return None
        if event == "line":
            where = module, frame.f_code.co_qualname, frame.f_lineno
            seen[where] += 1
            at(Line(*where, seen[where]))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
