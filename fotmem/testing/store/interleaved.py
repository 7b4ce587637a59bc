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

PAUSE = 1e-6
"""Seconds; a pause of any length lets another thread run."""
OFTEN = 4
"""Longer pauses of a thread at the same line, at most."""
NOT_THE_STORES = sys.stdlib_module_names | {"numpy", "torch"}
"""Packages in which no thread pauses."""


def together(tasks: Sequence[Callable[[], object]], *, first_pauses: float = PAUSE) -> None:
    """Run all tasks at once, each in its own thread, and raise the first error.

    Threads pause at every line of Python that may belong to the store, so that two threads that
    change the same object nearly always collide, instead of once in a million runs. The first task
    may pause longer, so that the others run between any two of its lines; after a few rounds of a
    loop it pauses as briefly as they do.
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
        ours = type(error) is AssertionError and error.args  # raised by the contract
        if ours or not isinstance(error, Exception):
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
