"""Waits for what may never come, however busy the machine is."""

import time
from collections.abc import Callable
from threading import Thread

STILL = 20
"""Seconds in which no other thread did anything at all: nothing will come of them any more."""
IDLE = 0.002
"""Seconds of the processor that they take in one second, at most, while they do nothing."""
LONGEST = 1000
"""Seconds after which nothing will come either, though they do something."""


def awaited(look: Callable[[float], bool]) -> bool:
    """Wait for something that other threads are to do; False if they wait for ever.

    Parameters
    ----------
    look : callable
        Waits for so many seconds, or until it has come; tells whether it has.
    """
    still = 0
    for _ in range(LONGEST):
        begun = _time_of_others()
        if look(1.0):
            return True
        still = still + 1 if _time_of_others() - begun < IDLE else 0
        if still == STILL:
            return False
    return False


def ended(thread: Thread) -> bool:
    """Wait until a thread has ended; False if it waits for ever."""

    def look(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return awaited(look)


def _time_of_others() -> float:
    """Seconds of the processor that all threads of this process took but this one."""
    return time.process_time() - time.thread_time()
