"""Which figure of a store predicts the quality of a model's answers, and how much is needed."""

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
"""Share of the quality with `exact` that counts as enough."""
FEWEST = 3
"""Fewest settings of a curve."""


class Quality(NamedTuple):
    """The quality of a model's answers in a task."""

    kind: type[StoreRow]
    name: str
    of: Callable[[Any], Figure]
    """Returns the quality of a row; higher is better."""


QUALITIES = {
    "passkey": Quality(
        PasskeyRow, "exact match", lambda row: Figure(row.exact_match, *row.exact_match_interval)
    ),
    "perplexity": Quality(
        PerplexityRow,
        "loss reduction (nats)",
        lambda row: Figure(-row.difference, *(-end for end in reversed(row.difference_interval))),
    ),
    "dictionary": Quality(
        DictionaryRow, "exact match", lambda row: Figure(row.exact_match, *row.exact_match_interval)
    ),
}
"""Qualities by task."""


class CurvePoint(NamedTuple):
    """A setting of a store in a task."""

    setting: Setting
    quality: Figure
    store_quality: StoreQuality


class Threshold(NamedTuple):
    """The value of a figure from which a model is nearly as good as with `exact`."""

    value: Figure
    is_bound: bool
    """Whether all settings reach it: a worse value may be enough."""


@dataclass(frozen=True)
class Curve:
    """All settings of a task with one number of tokens."""

    task: str
    tokens: int
    points: Sequence[CurvePoint]

    @property
    def exact(self) -> CurvePoint | None:
        """The point of `exact`, if it was measured."""
        exact = Setting(store=REFERENCE)
        return next((point for point in self.points if point.setting == exact), None)

    def predicts(self, figure: str) -> Figure:
        """Return the rank correlation of a figure and the quality (Spearman), at most 1.

        The 95% interval is a bootstrap over settings. The correlation is 0 where the quality is the
        same everywhere.
        """
        return interval(_rank_correlation, *map(torch.tensor, self._values(figure)))

    @property
    def best(self) -> Sequence[str]:
        """Name the figure that predicts best, then those that may predict as well.

        Their rank correlation is not lower by more than noise (paired bootstrap over settings,
        95%). Empty if no figure predicts anything.
        """
        values_of = {figure: self._values(figure) for figure in FIGURES}
        known = {figure: _rank_correlation(*each, axis=-1) for figure, each in values_of.items()}
        first = max(known, key=known.__getitem__)
        if known[first] <= 0:
            return []
        values, qualities = map(torch.tensor, values_of.pop(first))
        alike = [
            figure
            for figure, (others, _) in values_of.items()
            if interval(_advantage, values, torch.tensor(others), qualities).low <= 0
        ]
        return [first, *alike]

    def needed(self, figure: str) -> Threshold | None:
        """Return the value of a figure that keeps 95% of the quality with `exact`.

        Quality is assumed to be linear between settings, and never to fall with a better figure
        (isotonic regression): a fall is noise. The interval is a bootstrap over settings. None
        without `exact`, and where memory does not help with `exact` either.
        """
        exact = self.exact
        if exact is None or exact.quality.value <= 0:
            return None
        bar, sign = ENOUGH * exact.quality.value, FIGURES[figure].better
        best = np.array(
            [[sign * getattr(exact.store_quality, figure).value], [exact.quality.value]]
        )
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
        """Return a figure, signed so that higher is better, and the quality of all settings."""
        values = [
            FIGURES[figure].better * getattr(point.store_quality, figure).value
            for point in self.points
        ]
        return np.array(values), np.array([point.quality.value for point in self.points])


def read_curves(file: Path) -> Iterator[Curve]:
    """Read the curves of a report of `fotmem eval --stores`, one for each number of tokens.

    Raises
    ------
    InputError
        The file is not such a report, or has too few settings.
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
        if row.store is not None and row.store_quality is not None:
            setting = Setting(store=row.store, options=row.options)
            points.setdefault(row.tokens, []).append(
                CurvePoint(setting, quality.of(row), row.store_quality)
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
    """Return the value of a figure at which quality reaches a bar; at the latest that of `best`."""
    from scipy.optimize import isotonic_regression

    x, y = np.concatenate([np.array([values, qualities]), best], 1)
    order = np.lexsort((y, x))
    x, y = x[order], isotonic_regression(y[order]).x
    first = int(np.argmax(y >= bar)) if y[-1] >= bar else len(x) - 1
    if first == 0 or y[first] < bar:
        return float(x[first])
    below, above = y[first - 1], y[first]
    return float(x[first - 1] + (bar - below) / (above - below) * (x[first] - x[first - 1]))
