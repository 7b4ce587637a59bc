"""What a model reaches with a memory, as a share of what it reaches with all in its window."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from fotmem.measure.evaluate.alternatives.run import Answers
from fotmem.measure.evaluate.intervals import ratio_interval, wilson


class ThreeAnswers(NamedTuple):
    """The answers to the same questions, asked in three ways."""

    without_memory: Answers
    with_memory: Answers
    in_window: Answers

    @property
    def means(self) -> dict[str, float]:
        """The mean scores, and how far those with memory are `apart` from those in the window."""
        scores = {way: answers.scores for way, answers in self._asdict().items()}
        pairs = zip(scores["with_memory"], scores["in_window"], strict=True)
        apart = fmean(abs(found - known) for found, known in pairs)
        return {way: fmean(each) for way, each in scores.items()} | {"apart": apart}


@dataclass(frozen=True, kw_only=True)
class WindowShare:
    """The mean scores, from 0 to 1, of the same questions asked in three ways."""

    tokens: int
    store: str
    without_memory: float
    """Score of a model that does not know the text."""
    without_memory_interval: tuple[float, float]
    """95% interval (Wilson, as if each trial had one answer)."""
    with_memory: float
    """Score with the text in memory."""
    with_memory_interval: tuple[float, float]
    in_window: float
    """Score without memory, with the evidence in front of the question."""
    in_window_interval: tuple[float, float]
    share: float | None
    """`with_memory` as a share of `in_window`; None if that is 0."""
    share_interval: tuple[float, float] | None
    """95% interval (Bonett and Price 2006) of `share`; None if that is None."""
    apart: float
    """Mean absolute difference of the scores with memory and in the window of a question."""
    trials: int
    seconds: float
    """Time with memory, with reading."""


def window_share(
    without_memory: float, with_memory: float, in_window: float, apart: float, *, trials: int
) -> dict[str, Any]:
    """Return the fields of a `WindowShare` that follow from its means."""
    return {
        "without_memory": without_memory,
        "without_memory_interval": wilson(without_memory * trials, trials),
        "with_memory": with_memory,
        "with_memory_interval": wilson(with_memory * trials, trials),
        "in_window": in_window,
        "in_window_interval": wilson(in_window * trials, trials),
        "share": with_memory / in_window if in_window else None,
        "share_interval": ratio_interval(
            *(mean * trials for mean in (with_memory, in_window, apart))
        ),
        "apart": apart,
        "trials": trials,
    }
