"""The results of RULER: what a model reaches with memory and with the evidence in its window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fotmem.measure.evaluate.report import StoreRow
from fotmem.measure.evaluate.ruler.tasks import NEEDLES
from fotmem.measure.evaluate.window_share import ThreeAnswers, WindowShare, window_share


@dataclass(frozen=True, kw_only=True)
class RulerRow(WindowShare, StoreRow):
    """The mean scores of one task with one length, or of all needle tasks.

    Where settings of stores were compared, `seconds` is the time of answering alone.
    """

    task: str


def make_row(task: str, tokens: int, store: str, answers: ThreeAnswers) -> RulerRow:
    """Combine the scores of a task."""
    with_memory = answers.with_memory
    return RulerRow(
        task=task,
        tokens=tokens,
        store=store,
        **window_share(**answers.means, trials=len(with_memory.scores)),
        seconds=with_memory.seconds,
    )


def mean_of_needles(rows: Sequence[RulerRow]) -> list[RulerRow]:
    """Return the mean over all needle tasks of one length; nothing if one of them is missing.

    The rows are those of one setting of a store.
    """
    some = [row for row in rows if row.task in NEEDLES]
    if len(some) < len(NEEDLES):
        return []
    names = (*ThreeAnswers._fields, "apart")
    means = {name: fmean(getattr(row, name) for row in some) for name in names}
    trials, seconds = (sum(getattr(row, name) for row in some) for name in ("trials", "seconds"))
    mean = replace(some[0], task="needles", seconds=seconds, store_quality=None)
    return [replace(mean, **window_share(**means, trials=trials))]
