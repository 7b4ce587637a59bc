"""Guards a store: one thread changes it at a time; a closed or broken store refuses calls."""

import functools
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from fotmem.errors import BusyError, StorageError
from fotmem.interrupts import interrupts_deferred


class Guard:
    """Knows which threads change or copy a store, and why it cannot be used any more.

    One thread at a time may change it; several may copy it while no thread changes it. A second
    change is refused: waiting would hide that ids depend on which thread came first. Ctrl-C waits
    until a change or a copy is done. Searching needs no permission.
    """

    def __init__(self, kind: str, refusal: str = "") -> None:
        self.kind = kind
        """Name of the store's class."""
        self.refusal = refusal
        """Why the store cannot be used any more; empty if it can."""
        self.closed = False
        self._mutex = threading.Lock()
        self._depth = 0  # changes within changes of one thread: `close` calls `flush`
        self._changer = threading.current_thread()
        self._change = ""
        self._copiers: list[threading.Thread] = []

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle, and copy, as the guard of a store that no thread changes or copies."""
        return type(self), (self.kind, self.refusal)

    def require_usable(self) -> None:
        """Raise `StorageError` if the store is closed or broken."""
        if self.refusal:
            raise StorageError(self.refusal)

    def close(self) -> None:
        """Refuse the store from now on."""
        self.closed = True
        self.refusal = f"this {self.kind} is closed; open it again, or make another"

    def begin(self, method: str) -> bool:
        """Let only this thread change the store; return whether it was not changing it already."""
        me = threading.current_thread()
        with self._mutex:
            if self._depth and self._changer is not me:
                raise self._busy(method, self._change, self._changer)
            for other in self._copiers:
                if other is not me:
                    raise self._busy(method, "copy", other)
            if not self._depth:
                self._changer, self._change = me, method
            self._depth += 1
            return self._depth == 1

    def end(self) -> None:
        """Let other threads change the store."""
        with self._mutex:
            self._depth -= 1

    def begin_copy(self, method: str) -> None:
        """Keep other threads from changing the store."""
        me = threading.current_thread()
        with self._mutex:
            if self._depth and self._changer is not me:
                raise self._busy(method, self._change, self._changer)
            self._copiers.append(me)

    def end_copy(self) -> None:
        """Allow changes again, unless other threads copy, too."""
        with self._mutex:
            self._copiers.remove(threading.current_thread())

    def _busy(self, method: str, other: str, thread: threading.Thread) -> BusyError:
        return BusyError(
            f"{self.kind}.{method} must wait until thread {thread.name!r} is done with {other}: "
            "many threads may search a store, but one at a time may change it; let yours take turns"
        )


class _GuardedStore(Protocol):
    _guard: Guard


_Given = ParamSpec("_Given")
_Store = TypeVar("_Store", bound=_GuardedStore)
_Result = TypeVar("_Result")
_Method = Callable[Concatenate[_Store, _Given], _Result]


def reads(method: _Method[_Store, _Given, _Result]) -> _Method[_Store, _Given, _Result]:
    """Refuse a method once the store is closed or broken."""

    @functools.wraps(method)
    def call(store: _Store, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if store._guard.refusal:
            store._guard.require_usable()
        return method(store, *args, **kwargs)

    return call


def changes(method: _Method[_Store, _Given, _Result]) -> _Method[_Store, _Given, _Result]:
    """Let one thread at a time call a method, and Ctrl-C wait."""
    return _between(Guard.begin, Guard.end, method)


def copies(method: _Method[_Store, _Given, _Result]) -> _Method[_Store, _Given, _Result]:
    """Let no other thread change the store while a method runs, and Ctrl-C wait."""
    return _between(Guard.begin_copy, Guard.end_copy, method)


def _between(
    begin: Callable[[Guard, str], object],
    end: Callable[[Guard], None],
    method: _Method[_Store, _Given, _Result],
) -> _Method[_Store, _Given, _Result]:
    name = method.__name__

    @functools.wraps(method)
    def call(store: _Store, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        guard = store._guard
        with interrupts_deferred():
            begin(guard, name)
            try:
                guard.require_usable()
                return method(store, *args, **kwargs)
            finally:
                end(guard)

    return call


def fills(method: _Method[_Store, _Given, _Result]) -> _Method[_Store, _Given, _Result]:
    """Let one thread at a time call a method that may take minutes: Ctrl-C does not wait."""
    name = method.__name__

    @functools.wraps(method)
    def call(store: _Store, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        guard, begun = store._guard, list[bool]()

        def end() -> None:
            with interrupts_deferred():
                while begun:
                    guard.end()
                    begun.pop()

        try:
            try:
                with interrupts_deferred():
                    guard.begin(name)
                    begun.append(True)
                guard.require_usable()
                return method(store, *args, **kwargs)
            finally:
                end()
        finally:  # once more: Ctrl-C may have come in between
            end()

    return call


def closes(method: _Method[_Store, _Given, None]) -> _Method[_Store, _Given, None]:
    """Refuse the store once a method is done; calling it again does nothing."""
    name = method.__name__

    @functools.wraps(method)
    def call(store: _Store, /, *args: _Given.args, **kwargs: _Given.kwargs) -> None:
        guard = store._guard
        with interrupts_deferred():
            outermost = guard.begin(name)
            try:
                if not guard.closed:
                    method(store, *args, **kwargs)
                    if outermost:  # not the base class's, called by a subclass's own
                        guard.close()
            finally:
                guard.end()

    return call


GUARDED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("search", "attend", "keys", "values", "share_read", "__len__"), reads),
    **dict.fromkeys(("start_at", "add", "forget", "tune", "flush"), changes),
    "fill": fills,
    "copy": copies,
    "save_index": copies,
    "close": closes,
}
"""The guard of each public method, also where a subclass overrides it."""
