"""Delays Ctrl-C while a change is made that must not stop halfway."""

import signal as names
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

try:  # ten times as fast as `signal`, which converts every argument and result to an enum
    from _signal import getsignal, signal  # type: ignore[import-not-found]
except ImportError:
    from signal import getsignal, signal

SIGNALS = [
    int(getattr(names, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    if hasattr(names, name)
]
"""Ctrl-C, and the signals that stop the command line."""


class interrupts_deferred:  # noqa: N801 - used like a function; twice as fast as a generator
    """Delay Ctrl-C, and other signals that raise an exception, until the end of a block.

    Use it as ``with interrupts_deferred():``. Ctrl-C is not lost if the block raises.
    """

    def __enter__(self) -> None:
        self._handlers: dict[int, Callable[..., Any]] = {}
        self._caught: list[int] = []
        if threading.current_thread() is not threading.main_thread():  # others get no signals
            return
        try:
            for number in SIGNALS:
                handler = getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal(number, self._note)
        except BaseException:
            self._restore()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._restore()
        finally:  # again: a signal may have interrupted the first
            self._restore()
        if self._caught:
            names.raise_signal(self._caught[-1])

    def _restore(self) -> None:
        while self._handlers:  # Ctrl-C last: its exception would end this loop
            number = next(reversed(self._handlers))
            signal(number, self._handlers[number])
            del self._handlers[number]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._caught.append(number)
