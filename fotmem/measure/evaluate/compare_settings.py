"""Several settings of stores in one task: what a model makes of each, and what each finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from fotmem.errors import FotmemError
from fotmem.measure.evaluate.store_quality import CallQuality, StoreQuality, judge_call, over_calls
from fotmem.measure.grid import same_build, search_changes
from fotmem.measure.setting import Setting

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory
    from fotmem.stores.store import MemoryStore

ResultT = TypeVar("ResultT")
"""What a task makes of one call."""
Session = Callable[[], Iterator[Callable[[], ResultT]]]
"""Yields what to ask each setting; in between it may change the memory. What it does before the
first is done once, before the memory is put into a store."""


class Reading(NamedTuple, Generic[ResultT]):
    """What is read once, and what is asked about it."""

    read: Callable[[], None]
    sessions: Sequence[Session[ResultT]]
    """The memory is the same at the beginning of each."""


@dataclass(eq=False)
class SettingRun(Generic[ResultT]):
    """A setting, and what came of it so far."""

    setting: Setting
    outcomes: list[ResultT] = field(default_factory=list)
    calls: list[CallQuality] = field(default_factory=list)
    seconds: float = 0.0
    """Of asking, without reading, building and judging."""
    failure: str = ""
    """Why it is not asked any more."""

    @property
    def found(self) -> StoreQuality:
        """What the store found of everything that was asked."""
        return over_calls(self.calls)


class SettingComparison(Generic[ResultT]):
    """Asks settings of stores the same, each with what a memory has read.

    A text is read once, into the stores that the memory has, and then put into those of the
    settings; a store is tuned to settings that need no other build.

    Parameters
    ----------
    memory : Memory
        With a `top_k`. Its stores are the same afterwards.
    settings : sequence of Setting
    attend : bool
        Whether reading looks at memory. Each setting then reads by itself.
    """

    def __init__(
        self, memory: Memory, settings: Sequence[Setting], *, attend: bool = False
    ) -> None:
        self._memory, self._attend = memory, attend
        self._tried: list[SettingRun[ResultT]] = [SettingRun(setting) for setting in settings]

    def run(
        self, readings: Sequence[Reading[ResultT]], done: Callable[[SettingRun[ResultT]], None]
    ) -> Iterator[int]:
        """Ask everything.

        Parameters
        ----------
        readings : sequence of Reading
            What is asked must end with a call of the model: what that asks the stores is judged.
        done : callable
            Takes each setting as soon as it was asked everything, or failed.

        Yields
        ------
        int
            After each session, of how many settings.
        """
        for number, reading in enumerate(readings, 1):
            left = [tried for tried in self._tried if not tried.failure]
            if left and not self._attend:
                reading.read()
            while left:
                build = self._build(left)
                left = [tried for tried in left if tried not in build]
                with _blaming(build), self._read_apart(build[0], reading):
                    for session in reading.sessions:
                        self._ask(build, session)
                        yield len(build)
                for tried in build:
                    if tried.failure or number == len(readings):
                        done(tried)

    def _build(self, left: Sequence[SettingRun[ResultT]]) -> list[SettingRun[ResultT]]:
        """Return the first, and those for which it need only be tuned."""
        first = left[0]
        if self._attend:
            return [first]
        try:
            with self._memory.temporarily():
                self._memory.clear()
                free = self._use(first.setting).search_options
        except Exception:  # why, is told when its turn comes
            return [first]
        return [each for each in left if same_build(each.setting, first.setting, free)]

    @contextmanager
    def _read_apart(self, tried: SettingRun[ResultT], reading: Reading[ResultT]) -> Iterator[None]:
        """Let a setting read by itself, where reading looks at memory."""
        if not self._attend:
            yield
            return
        with self._memory.temporarily():
            self._memory.clear()
            self._use(tried.setting)
            reading.read()
            yield

    def _ask(self, build: Sequence[SettingRun[ResultT]], session: Session[ResultT]) -> None:
        built = self._attend
        with self._memory.temporarily():
            for ask in session():
                if not built:
                    self._use(build[0].setting)
                    built = True
                for tried in build:
                    with _blaming([tried]):
                        self._ask_one(tried, ask)

    def _ask_one(self, tried: SettingRun[ResultT], ask: Callable[[], ResultT]) -> None:
        if tried.failure:
            return
        for store in self._memory.stores.values():
            store.tune(**search_changes(tried.setting, store.search_options))
        begin = time.perf_counter()
        outcome = ask()
        tried.seconds += time.perf_counter() - begin
        tried.calls.append(judge_call(self._memory))
        tried.outcomes.append(outcome)

    def _use(self, setting: Setting) -> MemoryStore:
        """Put what was read into stores of a setting; return one of them."""
        self._memory.use(setting.store, **setting.options)
        return self._memory.store(self._memory.layers[0])


@contextmanager
def _blaming(build: Sequence[SettingRun[Any]]) -> Iterator[None]:
    """Keep what goes wrong as the failure of these settings: the others go on."""
    try:
        yield
    except Exception as error:
        reason = (
            str(error) if isinstance(error, FotmemError) else f"{type(error).__name__}: {error}"
        )
        for tried in build:
            tried.failure = tried.failure or reason
