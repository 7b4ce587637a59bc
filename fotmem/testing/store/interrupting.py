"""Stops a call at each of its lines, to find changes that it leaves half done."""

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

from fotmem.testing.store.waiting import ended

OTHERS = frozenset({"numpy", "torch", "importlib", "_weakrefset"})
"""Packages whose lines do not count: a stop there shows at the line that called them."""


class Interruption(NamedTuple):
    """How a call ended that was stopped at a line."""

    place: str
    """Module, function and line of the stop; empty if the call has fewer lines."""
    error: BaseException | None
    """What the call raised."""


def ctrl_c() -> None:
    """Send SIGINT to this process, as the key does; the main thread gets it at once."""
    signal.raise_signal(signal.SIGINT)


def raising(error: BaseException) -> Callable[[], None]:
    """Return a `stop` for `stopped` that raises an error."""

    def stop() -> None:
        raise error

    return stop


def stopped(
    call: Callable[[], object],
    line: int,
    *,
    stop: Callable[[], None] = ctrl_c,
    inside: Iterable[str] = (),
) -> Interruption:
    """Run a call, and stop it before its `line`-th line of Python.

    Parameters
    ----------
    call : callable
        Called in this thread, which must be the main one for `ctrl_c`.
    line : int
        From 0.
    stop : callable
        Called before that line: `ctrl_c`, or the result of `raising`.
    inside : iterable of str
        Names of functions; only lines of these count, and of what they call. Default: all. Those of
        the standard library do not count then: an error arises in them where they were called.

    Returns
    -------
    Interruption
        It has the error that the call raised.
    """
    tracer = _Tracer(line, stop, frozenset(inside))
    error: BaseException | None = None
    with _ctrl_c_raises(), _collector_still():
        before = sys.gettrace()
        sys.settrace(tracer.entered)
        try:
            call()
        except BaseException as caught:
            error = caught
        finally:
            sys.settrace(before)
    return Interruption(tracer.place, error)


def count_lines(call: Callable[[], object], *, inside: Iterable[str] = ()) -> int:
    """Run a call, and count the lines at which `stopped` could stop it."""
    tracer = _Tracer(-1, ctrl_c, frozenset(inside))
    with _collector_still():
        before = sys.gettrace()
        sys.settrace(tracer.entered)
        try:
            call()
        finally:
            sys.settrace(before)
    return tracer.seen


def expect_to_end(call: Callable[[], object], what: str) -> None:
    """Run a call in a thread; fail if it waits forever, and raise its errors."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not ended(thread):
        raise AssertionError(f"{what} waits forever")
    if errors:
        raise errors[0]


class _Tracer:
    """Counts lines, and stops at one of them."""

    def __init__(self, line: int, stop: Callable[[], None], inside: frozenset[str]) -> None:
        self.seen = 0
        self.place = ""
        self._line, self._stop, self._inside = line, stop, inside
        self._others = OTHERS | sys.stdlib_module_names if inside else OTHERS
        self._depth = 0 if inside else 1  # of functions that count

    def entered(self, frame: FrameType, event: str, argument: object) -> Any:
        module = frame.f_globals.get("__name__", "")
        if module == __name__ or module.partition(".")[0] in self._others:
            return None
        self._depth += frame.f_code.co_name in self._inside
        return self._within

    def _within(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and self._depth:
            self.seen += 1
            if self.seen == self._line + 1:
                name = frame.f_globals.get("__name__", "")
                self.place = f"{name}.{frame.f_code.co_qualname}, line {frame.f_lineno}"
                self._stop()
        elif event == "return":
            self._depth -= frame.f_code.co_name in self._inside
        return self._within


@contextmanager
def _ctrl_c_raises() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt`, as it does by default."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _collector_still() -> Iterator[None]:
    """Collect no garbage: what others do then is no part of the call, and its errors vanish."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
