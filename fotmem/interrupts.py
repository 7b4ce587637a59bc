"""Lets Ctrl-C wait while something must not be left half done."""

import signal as names
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

try:  # `signal` makes enums of all it takes and gives, which takes ten times as long
    from _signal import getsignal, signal  # type: ignore[import-not-found]
except ImportError:
    from signal import getsignal, signal

SIGNALS = [
    int(getattr(names, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")
    if hasattr(names, name)
]
"""Ctrl-C, and those by which the command line is stopped, too."""


class interrupts_deferred:  # noqa: N801 - used as a function; as a generator it takes twice as long
    """Let Ctrl-C, and whatever else raises an exception in its place, wait until this is done.

    Use it as ``with interrupts_deferred():``; also where the block raises, Ctrl-C is not lost.
    """

    def __enter__(self) -> None:
        self._handlers: dict[int, Callable[..., Any]] = {}
        self._caught: list[int] = []
        if threading.current_thread() is not threading.main_thread():  # only there Ctrl-C arrives
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
        finally:  # once more: another signal may have come in between
            self._restore()
        if self._caught:
            names.raise_signal(self._caught[-1])

    def _restore(self) -> None:
        while self._handlers:  # Ctrl-C last: what it raises would end this loop
            number = next(reversed(self._handlers))
            signal(number, self._handlers[number])
            del self._handlers[number]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._caught.append(number)
