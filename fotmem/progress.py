"""Tells how far long work is: a bar on a terminal, elsewhere a line now and then, and a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

LOG = logging.getLogger(__name__)
EVERY = 10.0
"""Seconds between two lines, and before the first."""
Item = TypeVar("Item")
Tell = Callable[..., None]
"""Takes how much is done, and perhaps a text to stand beside it."""


@contextmanager
def progress_told(
    doing: str, total: int | None, unit: str = "", *, shown: bool = True, done: int = 0
) -> Iterator[Tell]:
    """Give a function that takes how much is done, and perhaps a text to stand beside it.

    On a terminal, a bar is drawn on stderr. Elsewhere stderr gets a line at most every 10 seconds,
    and one at the end if there was one before. The same lines are logged under the name
    ``fotmem.progress`` at level INFO, whether shown or not.

    Parameters
    ----------
    doing : str
        What is done, such as ``reading``.
    total : int or None
        How much there is to do; None: nobody knows.
    unit : str
        Of what, such as ``tokens``.
    shown : bool
        Whether stderr is written to.
    done : int
        How much was done before.
    """
    bar = _bar(doing, total, unit) if shown else None
    drawn = bar is not None and bar.console.is_terminal
    lines = ProgressLines(doing, total, unit, printed=shown and not drawn, done=done)
    if bar is None or not drawn:
        yield lines.tell
    else:
        with bar:
            task = bar.add_task("", total=total, completed=done)

            def tell(count: int, text: str = "") -> None:
                lines.tell(count, text)
                bar.update(task, completed=lines.done, description=lines.text)

            yield tell
    lines.end()


def tracked(
    doing: str, items: Iterable[Item], total: int, unit: str = "", *, shown: bool = True
) -> Iterator[Item]:
    """Yield items; one is done when the next is asked for. Arguments as in `progress_told`."""
    with progress_told(doing, total, unit, shown=shown) as tell:
        for count, item in enumerate(items, 1):
            yield item
            tell(count)


def spans_told(doing: str, spans: list[range], *, shown: bool) -> Iterator[range]:
    """Yield spans of tokens; a span is done when the next is asked for."""
    done = 0
    with progress_told(doing, sum(map(len, spans)), "tokens", shown=shown) as tell:
        for span in spans:
            yield span
            done += len(span)
            tell(done)


class ProgressLines:
    """Tells how far work is in a line now and then; arguments as in `progress_told`.

    Parameters
    ----------
    printed : bool
        Whether lines go to stderr, and not only to the log.
    """

    def __init__(
        self, doing: str, total: int | None, unit: str, *, printed: bool, done: int
    ) -> None:
        self.done, self.text = done, ""
        self._doing, self._total, self._unit, self._printed = doing, total, unit, printed
        self._before = done
        self._began = self._last = monotonic()

    def tell(self, count: int, text: str = "") -> None:
        """Take how much is done, which never falls, and a text to stand beside it."""
        self.done, self.text = max(count, self.done), text or self.text
        now = monotonic()
        if now - self._last >= EVERY:
            self._last = now
            self._say(self._rate(now - self._began))

    def end(self) -> None:
        """Say that all is done, if it took so long that anything was said."""
        if self._last > self._began:
            self._say(f"done in {_time(monotonic() - self._began)}")

    def _say(self, how: str) -> None:
        total = "" if self._total is None else f" of {self._total:,}"
        amount = f"{self.done:,}{total} {self._unit}".rstrip() if total or self.done else ""
        line = f"{self._doing.rstrip()}: {', '.join(filter(None, (amount, how, self.text)))}"
        LOG.info("%s", line)
        if self._printed:
            print(line, file=sys.stderr, flush=True)

    def _rate(self, seconds: float) -> str:
        """Return how quick it was, and how long the rest takes."""
        done = self.done - self._before
        if not done:
            return f"for {_time(seconds)}"
        quick = f"{done / seconds:,.3g} a second"
        if self._total is None:
            return quick
        return f"{quick}, {_time((self._total - self.done) * seconds / done)} left"


def _bar(doing: str, total: int | None, unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    amount = [MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn()]
    return Progress(
        TextColumn(doing, markup=False),
        BarColumn(),
        *([TimeElapsedColumn()] if total is None else amount),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
    )


def _time(seconds: float) -> str:
    """Write a duration in hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
