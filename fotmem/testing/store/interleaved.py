"""Runs calls in threads that hand over to each other as often as they can."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

PAUSE = 1e-6
"""Seconds; any pause lets another thread run."""
OFTEN = 4
"""Times that a thread makes a longer pause at the same line."""
NOT_THE_STORES = sys.stdlib_module_names | {"numpy", "torch"}
"""Packages at whose lines no thread pauses."""


def together(tasks: Sequence[Callable[[], object]], *, first_pauses: float = PAUSE) -> None:
    """Run all tasks at once, each in a thread of its own; the first error is raised.

    Threads pause at every line of Python that may be the store's own, so that what two of them do
    to the same object meets in the middle, not once in a million times but nearly always. The first
    task may pause longer, so that others come by several times between any two lines of it; after
    some rounds of a loop it goes on as the others do.
    """
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object], pause: float) -> None:
        barrier.wait()
        sys.settrace(_pausing(pause))
        try:
            task()
        finally:
            sys.settrace(None)

    pauses = [first_pauses, *[PAUSE if first_pauses == PAUSE else 0.0] * (len(tasks) - 1)]
    with _switching_often(), ThreadPoolExecutor(len(tasks)) as pool:
        ended = [pool.submit(run, *both) for both in zip(tasks, pauses, strict=True)]
    for error in filter(None, [future.exception() for future in ended]):
        told = type(error) is AssertionError and error.args  # by the contract, not by the store
        if told or not isinstance(error, Exception):
            raise error
        message = f"{len(tasks)} threads at a time: {type(error).__name__}: {error}"
        raise AssertionError(message) from error


def _pausing(pause: float) -> Callable[[FrameType, str, object], Any]:
    seen: Counter[tuple[CodeType, int]] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not pause or frame.f_globals.get("__name__", "").partition(".")[0] in NOT_THE_STORES:
            return None
        if event == "line":
            line = frame.f_code, frame.f_lineno
            seen[line] += 1
            time.sleep(pause if seen[line] <= OFTEN else PAUSE)
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
