"""From what stores find to what a model makes of it: which figure tells, and how much it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fotmem.errors import InputError, require_packages
from fotmem.measure.bench.figures import Array, Figure, interval
from fotmem.measure.bench.report import REFERENCE
from fotmem.measure.evaluate.dictionary import DictionaryRow
from fotmem.measure.evaluate.passkey import PasskeyRow
from fotmem.measure.evaluate.perplexity import PerplexityRow
from fotmem.measure.evaluate.report import StoreRow, read_report, rows_of
from fotmem.measure.evaluate.store_quality import FIGURES, StoreQuality
from fotmem.measure.setting import Setting

ENOUGH = 0.95
"""Of the quality that a model has with `exact`."""
FEWEST = 3
"""Settings of a curve."""


class Quality(NamedTuple):
    """What a model's answers in a task are judged by."""

    kind: type[StoreRow]
    name: str
    of: Callable[[Any], Figure]
    """Of a row; more is better."""


QUALITIES = {
    "passkey": Quality(
        PasskeyRow, "whole answers", lambda row: Figure(row.answer_accuracy, *row.answer_interval)
    ),
    "perplexity": Quality(
        PerplexityRow,
        "nats gained by memory",
        lambda row: Figure(-row.difference, *(-end for end in reversed(row.difference_interval))),
    ),
    "dictionary": Quality(
        DictionaryRow, "values right", lambda row: Figure(row.accuracy, *row.interval)
    ),
}
"""By task."""


class CurvePoint(NamedTuple):
    """A setting of a store."""

    setting: Setting
    quality: Figure
    found: StoreQuality


class Threshold(NamedTuple):
    """From which value of a figure on a model is nearly as good as with `exact`."""

    value: Figure
    is_bound: bool
    """Whether all settings are: less may do as well."""


@dataclass(frozen=True)
class Curve:
    """All settings that were measured in a task with so many tokens."""

    task: str
    tokens: int
    points: Sequence[CurvePoint]

    @property
    def exact(self) -> CurvePoint | None:
        """The point of `exact`, if it was measured."""
        exact = Setting(store=REFERENCE)
        return next((point for point in self.points if point.setting == exact), None)

    def predicts(self, figure: str) -> Figure:
        """Return the rank correlation of a figure and the quality (Spearman), 1 where it is best.

        With a 95% interval, bootstrap over settings. A quality that is the same everywhere is
        predicted by nothing: 0.
        """
        return interval(_rank_correlation, *map(torch.tensor, self._values(figure)))

    @property
    def best(self) -> Sequence[str]:
        """Name the figure that predicts best, then those that may do so as well.

        That is, those whose rank correlation is no less beyond noise (paired bootstrap over
        settings, 95%). Empty if none predicts anything.
        """
        told = {figure: self._values(figure) for figure in FIGURES}
        known = {figure: _rank_correlation(*each, axis=-1) for figure, each in told.items()}
        first = max(known, key=known.__getitem__)
        if known[first] <= 0:
            return []
        values, qualities = map(torch.tensor, told.pop(first))
        alike = [
            figure
            for figure, (others, _) in told.items()
            if interval(_advantage, values, torch.tensor(others), qualities).low <= 0
        ]
        return [first, *alike]

    def needed(self, figure: str) -> Threshold | None:
        """Tell which value of a figure keeps 95% of the quality with `exact`.

        Between settings quality is taken for linear in the figure, and never for falling with a
        better one (isotonic regression): what falls is noise. The interval is a bootstrap over
        settings. None without `exact`, and where memory does not help with `exact` either.
        """
        exact = self.exact
        if exact is None or exact.quality.value <= 0:
            return None
        bar, sign = ENOUGH * exact.quality.value, FIGURES[figure].better
        best = np.array([[sign * getattr(exact.found, figure).value], [exact.quality.value]])
        values, qualities = self._values(figure)
        reached = np.vectorize(partial(_crossing, bar=bar, best=best), signature="(n),(n)->()")
        found = interval(
            lambda some, theirs, axis: reached(some, theirs),
            torch.tensor(values),
            torch.tensor(qualities),
        )
        ends = sorted(sign * end for end in found[1:])
        return Threshold(Figure(sign * found.value, *ends), bool(found.value <= min(values)))

    def _values(self, figure: str) -> tuple[Array, Array]:
        """Return a figure, such that more is better, and the quality of all settings."""
        values = [
            FIGURES[figure].better * getattr(point.found, figure).value for point in self.points
        ]
        return np.array(values), np.array([point.quality.value for point in self.points])


def curves(file: Path) -> Iterator[Curve]:
    """Read the curves of a report of `fotmem eval --stores`, one for each number of tokens.

    Raises
    ------
    InputError
        It is no such report, or has too few settings.
    """
    require_packages("fotmem eval curve", "scipy")
    content = read_report(file)
    quality = QUALITIES.get(content["task"])
    if quality is None:
        raise InputError(
            f"{file} is a report of fotmem eval {content['task']}, expected one of "
            f"{', '.join(QUALITIES)}"
        )
    points: dict[int, list[CurvePoint]] = {}
    for row in rows_of(content, quality.kind, file):
        if row.store is not None and row.found is not None:
            setting = Setting(store=row.store, options=row.options)
            points.setdefault(row.tokens, []).append(
                CurvePoint(setting, quality.of(row), row.found)
            )
    if not points:
        raise InputError(f"{file} compares no settings of stores: measure with --stores")
    for tokens, some in sorted(points.items()):
        if len(some) < FEWEST:
            raise InputError(
                f"{file} has {len(some)} settings at {tokens:,} tokens, a curve needs at least "
                f"{FEWEST}: measure more, with --stores or --grid"
            )
        yield Curve(content["task"], tokens, some)


def _rank_correlation(values: Array, qualities: Array, axis: int) -> Any:
    from scipy.stats import rankdata

    ranks = (rankdata(each, axis=axis) for each in (values, qualities))
    one, other = (each - each.mean(axis, keepdims=True) for each in ranks)
    length = np.sqrt((one**2).sum(axis) * (other**2).sum(axis))
    return (one * other).sum(axis) / np.where(length == 0, 1, length)


def _advantage(values: Array, others: Array, qualities: Array, axis: int) -> Any:
    return _rank_correlation(values, qualities, axis) - _rank_correlation(others, qualities, axis)


def _crossing(values: Array, qualities: Array, *, bar: float, best: Array) -> float:
    """Return where quality, as it grows with a figure, reaches a bar; at the latest with `best`."""
    from scipy.optimize import isotonic_regression

    x, y = np.concatenate([np.array([values, qualities]), best], 1)
    order = np.lexsort((y, x))
    x, y = x[order], isotonic_regression(y[order]).x
    first = int(np.argmax(y >= bar)) if y[-1] >= bar else len(x) - 1
    if first == 0 or y[first] < bar:
        return float(x[first])
    below, above = y[first - 1], y[first]
    return float(x[first - 1] + (bar - below) / (above - below) * (x[first] - x[first - 1]))
