"""The results of RULER: what a model reaches with memory and with the evidence in its window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fotmem.measure.evaluate.ruler.tasks import NEEDLES
from fotmem.measure.evaluate.window_share import ThreeAnswers, WindowShare, window_share


@dataclass(frozen=True, kw_only=True)
class RulerRow(WindowShare):
    """The mean scores of one task with one length, or of all needle tasks."""

    task: str


def make_row(task: str, tokens: int, store: str, answers: ThreeAnswers) -> RulerRow:
    """Combine the scores of a task."""
    with_memory = answers.with_memory
    return _row(task, tokens, store, answers.means, len(with_memory.scores), with_memory.seconds)


def mean_of_needles(rows: Sequence[RulerRow]) -> list[RulerRow]:
    """Return the mean over all needle tasks of one length; nothing if one of them is missing."""
    some = [row for row in rows if row.task in NEEDLES]
    if len(some) < len(NEEDLES):
        return []
    means = {name: fmean(getattr(row, name) for row in some) for name in ThreeAnswers._fields}
    trials, seconds = (sum(getattr(row, name) for row in some) for name in ("trials", "seconds"))
    return [_row("needles", some[0].tokens, some[0].store, means, trials, seconds)]


def _row(
    task: str, tokens: int, store: str, means: Mapping[str, float], trials: int, seconds: float
) -> RulerRow:
    return RulerRow(
        task=task,
        tokens=tokens,
        store=store,
        **window_share(**means, trials=trials),
        seconds=seconds,
    )
