"""Lets Ctrl-C wait while something must not be left half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    if hasattr(signal, name)
]
"""Ctrl-C, and those by which the command line is stopped, too."""


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Let Ctrl-C, and whatever else raises an exception in its place, wait until this is done."""
    if threading.current_thread() is not threading.main_thread():  # only there Ctrl-C arrives
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: caught.append((number, frame)))
        yield
    finally:
        for number in reversed(handlers):  # Ctrl-C last: what it raises would end this loop
            signal.signal(number, handlers[number])
    if caught:
        handler = handlers[caught[-1][0]]
        assert callable(handler)
        handler(*caught[-1])
