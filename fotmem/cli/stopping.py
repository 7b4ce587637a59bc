"""Stops a command by Ctrl-C and other signals: it cleans up, prints one line, and ends."""

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
"""Seconds after which the exception is raised again, if a library swallowed it."""


class StopSignal(KeyboardInterrupt):
    """Raised when a signal stops the command."""


class Stopping:
    """Lets signals stop a command.

    During imports there is nothing to clean up: the process ends at once. Later a signal raises
    `StopSignal`, again and again until it has reached `run`: some libraries swallow exceptions, and
    so does Python in ``__del__``. Code that cleans up is not interrupted again.
    """

    def __init__(self) -> None:
        self._number = 0
        self._begun = self._running = False
        self._before: dict[int, Any] = {}
        for number in SIGNALS:
            # A shell makes background processes ignore some signals.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._take(number)

    def run(self, command: Callable[[], int]) -> int:
        """Run a command; return its exit code, or that of a stopped process."""
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
    """Return whether a stop is being handled by code that cleans up."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _say() -> None:
    with suppress(OSError, ValueError):  # stderr is closed
        print("fotmem: stopped", file=sys.stderr, flush=True)


def _quiet(lost: Any) -> None:
    """Ignore a stop that was swallowed: it is raised again."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)


def _ignore() -> None:
    """Ignore signals while Python ends: it would only print a traceback."""
    for number in SIGNALS:
        with suppress(ValueError):
            signal.signal(number, signal.SIG_IGN)
