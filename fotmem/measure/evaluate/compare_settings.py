"""Runs a task with several settings of stores, which all answer the same questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from fotmem.errors import FotmemError
from fotmem.measure.evaluate.store_quality import (
    CallQuality,
    StoreQuality,
    call_quality,
    over_calls,
)
from fotmem.measure.grid import same_build, search_changes
from fotmem.measure.setting import Setting

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory
    from fotmem.stores.store import MemoryStore

ResultT = TypeVar("ResultT")
"""The result of one question."""
Session = Callable[[], Iterator[Callable[[], ResultT]]]
"""Yields the questions, which every setting answers; between two of them it may change the memory.
Everything before the first question happens once, before the memory is copied into a store."""


class Reading(NamedTuple, Generic[ResultT]):
    """A text to read once, and the sessions about it."""

    read: Callable[[], None]
    sessions: Sequence[Session[ResultT]]
    """Each begins with the same memory."""


@dataclass(eq=False)
class SettingRun(Generic[ResultT]):
    """A setting and its results so far."""

    setting: Setting
    results: list[ResultT] = field(default_factory=list)
    calls: list[CallQuality] = field(default_factory=list)
    seconds: float = 0.0
    """Of answering alone, without reading, building and exact search."""
    failure: str = ""
    """Why the setting is not asked any more."""

    @property
    def store_quality(self) -> StoreQuality:
        """The figures of the store over all questions."""
        return over_calls(self.calls)


class SettingComparison(Generic[ResultT]):
    """Asks several settings of stores the same questions about the same memory.

    A text is read once, into the stores that the memory has, and then copied into the store of
    each setting. A store is tuned, not built again, for settings with the same build.

    Parameters
    ----------
    memory : Memory
        With a `top_k`. Its stores are the same afterwards.
    settings : sequence of Setting
    attend : bool
        Whether windows attend to memory while they are read. Each setting then reads by itself.
    """

    def __init__(
        self, memory: Memory, settings: Sequence[Setting], *, attend: bool = False
    ) -> None:
        self._memory, self._attend = memory, attend
        self._runs: list[SettingRun[ResultT]] = [SettingRun(setting) for setting in settings]

    def run(
        self, readings: Sequence[Reading[ResultT]], done: Callable[[SettingRun[ResultT]], None]
    ) -> Iterator[int]:
        """Ask all questions.

        Parameters
        ----------
        readings : sequence of Reading
            Every question must end with a call of the model: its queries are those that the
            figures of the store are about.
        done : callable
            Takes each setting as soon as it answered all questions, or failed.

        Yields
        ------
        int
            After each session: for how many settings.
        """
        for number, reading in enumerate(readings, 1):
            left = [run for run in self._runs if not run.failure]
            if left and not self._attend:
                reading.read()
            while left:
                build = self._build(left)
                left = [run for run in left if run not in build]
                with _blaming(build), self._read_apart(build[0], reading):
                    for session in reading.sessions:
                        self._ask(build, session)
                        yield len(build)
                for run in build:
                    if run.failure or number == len(readings):
                        done(run)

    def _build(self, left: Sequence[SettingRun[ResultT]]) -> list[SettingRun[ResultT]]:
        """Return the first setting, and those for which its store need only be tuned."""
        first = left[0]
        if self._attend:
            return [first]
        try:
            with self._memory.temporarily():
                self._memory.clear()
                free = self._use(first.setting).search_options
        except Exception:  # reported when the setting's turn comes
            return [first]
        return [each for each in left if same_build(each.setting, first.setting, free)]

    @contextmanager
    def _read_apart(self, run: SettingRun[ResultT], reading: Reading[ResultT]) -> Iterator[None]:
        """Read with a setting's own store, where windows attend to memory."""
        if not self._attend:
            yield
            return
        with self._memory.temporarily():
            self._memory.clear()
            self._use(run.setting)
            reading.read()
            yield

    def _ask(self, build: Sequence[SettingRun[ResultT]], session: Session[ResultT]) -> None:
        built = self._attend
        with self._memory.temporarily():
            for ask in session():
                if not built:
                    self._use(build[0].setting)
                    built = True
                for run in build:
                    with _blaming([run]):
                        self._ask_one(run, ask)

    def _ask_one(self, run: SettingRun[ResultT], ask: Callable[[], ResultT]) -> None:
        if run.failure:
            return
        for store in self._memory.stores.values():
            store.tune(**search_changes(run.setting, store.search_options))
        begin = time.perf_counter()
        result = ask()
        run.seconds += time.perf_counter() - begin
        run.calls.append(call_quality(self._memory))
        run.results.append(result)

    def _use(self, setting: Setting) -> MemoryStore:
        """Copy the memory into stores of a setting; return one of them."""
        self._memory.use(setting.store, **setting.options)
        return self._memory.store(self._memory.layers[0])


@contextmanager
def _blaming(build: Sequence[SettingRun[Any]]) -> Iterator[None]:
    """Record an exception as the failure of these settings, so that the others go on."""
    try:
        yield
    except Exception as error:
        reason = (
            str(error) if isinstance(error, FotmemError) else f"{type(error).__name__}: {error}"
        )
        for run in build:
            run.failure = run.failure or reason
