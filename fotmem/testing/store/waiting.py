"""Waits for other threads without a time limit that a busy machine would break."""

import time
from collections.abc import Callable
from threading import Thread

STILL = 20
"""Seconds without any work of other threads after which they count as stuck."""
IDLE = 0.002
"""Processor seconds per second below which other threads count as idle."""
LONGEST = 1000
"""Seconds after which they count as stuck though they work."""


def awaited(look: Callable[[float], bool]) -> bool:
    """Wait for other threads; False if they wait forever.

    Parameters
    ----------
    look : callable
        Waits for this many seconds at most, and returns whether the threads are done.
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
    """Wait until a thread has ended; False if it waits forever."""

    def look(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return awaited(look)


def _time_of_others() -> float:
    """Processor seconds of all other threads of this process."""
    return time.process_time() - time.thread_time()
