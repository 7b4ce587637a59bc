"""Runs calls in threads that switch as often as possible."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from fotmem.stores.store import MemoryStore

PAUSE = 1e-6
"""Seconds; a pause of any length lets another thread run."""
OFTEN = 2
"""Times that a thread waits at the same line, at most."""


def packages_of(store: MemoryStore) -> set[str]:
    """Return the packages in which the classes of a store are defined: fotmem, and its own."""
    modules = {kind.__module__.partition(".")[0] for kind in type(store).__mro__}
    return modules - sys.stdlib_module_names


def together(
    store: MemoryStore,
    tasks: Sequence[Callable[[], object]],
    *,
    first_waits: Callable[[], object] | None = None,
) -> None:
    """Run all tasks at once, each in its own thread, and raise the first error.

    Threads pause at every line of Python in the packages of the store's classes, so that two
    threads that change the same object nearly always collide, instead of once in a million runs.
    With `first_waits`, the others do not pause, and the first task calls it before each of these
    lines, but for later rounds of a loop.
    """
    packages = packages_of(store)
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object], wait: Callable[[], object] | None) -> None:
        barrier.wait()
        sys.settrace(None if wait is None else _pausing(packages, wait))
        try:
            task()
        finally:
            sys.settrace(None)

    first, others = (_pause, _pause) if first_waits is None else (first_waits, None)
    waits = [first, *[others] * (len(tasks) - 1)]
    with _switching_often(), ThreadPoolExecutor(len(tasks)) as pool:
        ended = [pool.submit(run, *both) for both in zip(tasks, waits, strict=True)]
    for error in filter(None, [future.exception() for future in ended]):
        ours = type(error) is AssertionError and error.args  # raised by the contract
        if ours or not isinstance(error, Exception):
            raise error
        message = f"{len(tasks)} threads at a time: {type(error).__name__}: {error}"
        raise AssertionError(message) from error


def _pause() -> None:
    time.sleep(PAUSE)


def _pausing(
    packages: set[str], wait: Callable[[], object]
) -> Callable[[FrameType, str, object], Any]:
    seen: Counter[tuple[CodeType, int]] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_globals.get("__name__", "").partition(".")[0] not in packages:
            return None
        if event == "line":
            line = frame.f_code, frame.f_lineno
            seen[line] += 1
            (wait if seen[line] <= OFTEN else _pause)()
        return trace

    return trace


@contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
