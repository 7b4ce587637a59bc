"""What Ctrl-C and other signals do to a command: it clears up, says so in one line, and ends."""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

STOPPED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it; typer returns it too."""
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
AGAIN = 0.2
"""Seconds after which a stop comes again, if a library lost it."""


class StopSignal(KeyboardInterrupt):
    """A signal came that stops the command."""


class Stopping:
    """Lets signals stop a command from now on.

    As long as it only imports, there is nothing to clear up: it ends at once. Later a signal raises
    `StopSignal`, which comes again until it has reached `run`: some libraries lose exceptions, and
    Python does in ``__del__``. What clears up is not stopped by another.
    """

    def __init__(self) -> None:
        self._number = 0
        self._begun = self._running = False
        self._before: dict[int, Any] = {}
        for number in SIGNALS:
            # A shell lets what runs in the background ignore some.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._take(number)

    def run(self, command: Callable[[], int]) -> int:
        """Run a command; return the exit code, its own or that of a process that was stopped."""
        code, ignored = STOPPED, sys.unraisablehook
        sys.unraisablehook = _quiet
        try:
            self._begun = self._running = True
            code = command()
            self._running = False
        except BaseException as error:
            self._running = False
            if not self._number and not isinstance(error, KeyboardInterrupt):
                self._give_back()
                raise
        sys.unraisablehook = ignored
        if self._number or code == STOPPED:
            code = 128 + (self._number or signal.SIGINT)
            _say()
        self._give_back()
        return code

    def _take(self, number: int) -> None:
        with suppress(ValueError):  # signals are for the main thread
            self._before[number] = signal.signal(number, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if not self._begun:
            _say()
            os._exit(128 + number)
        if not self._number:
            self._number = number
            if hasattr(signal, "setitimer"):
                self._take(signal.SIGALRM)
                signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        if self._running and not _clearing_up():
            raise StopSignal

    def _give_back(self) -> None:
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        atexit.unregister(_ignore)
        atexit.register(_ignore)
        for number, before in self._before.items():
            signal.signal(number, before)


def _clearing_up() -> bool:
    """Tell whether a stop is on its way out through what clears up."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _say() -> None:
    with suppress(OSError, ValueError):  # nobody listens any more
        print("fotmem: stopped", file=sys.stderr, flush=True)


def _quiet(lost: Any) -> None:
    """Say nothing of a stop that was lost: it comes again."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _ignore() -> None:
    """Let Python end: all is done, and it would only show where it was."""
    for number in SIGNALS:
        with suppress(ValueError):
            signal.signal(number, signal.SIG_IGN)
