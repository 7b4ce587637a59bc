"""Waits for what may never come, however busy the machine is."""

import time
from collections.abc import Callable
from threading import Thread

STILL = 20
"""Seconds in which this process did nothing at all: nothing will come of it any more."""
IDLE = 0.002
"""Seconds of the processor that it takes in one second, at most, while it does nothing."""
LONGEST = 1000
"""Seconds after which nothing will come either, though it does something."""


def awaited(look: Callable[[float], bool]) -> bool:
    """Wait for something that this process is to do; False if it waits for ever.

    Parameters
    ----------
    look : callable
        Waits for so many seconds at most, and tells whether it has come.
    """
    still = 0
    for _ in range(LONGEST):
        begun = time.process_time()
        if look(1.0):
            return True
        still = still + 1 if time.process_time() - begun < IDLE else 0
        if still == STILL:
            return False
    return False


def ended(thread: Thread) -> bool:
    """Wait until a thread has ended; False if it waits for ever."""

    def look(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return awaited(look)
