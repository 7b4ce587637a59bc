"""Compares two reports: which figures got better or worse by more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

from fotmem.errors import InputError, require_packages
from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.report import REFERENCE, BenchReport, Row
from fotmem.measure.bench.summary import BY_NAME, Column
from fotmem.measure.setting import Setting

LEVEL = 0.05
"""Largest expected share of wrong verdicts among all that are "better" or "worse"."""
HALF = NormalDist().inv_cdf(0.975)
"""Half of a 95% interval, in standard deviations."""
COMPARED = [
    BY_NAME[name]
    for name in ("recall", "attention-mass recall", "error", "error p95", "p50", "throughput")
]


class Change(NamedTuple):
    """A figure of one setting in two reports: the mean over layers."""

    setting: Setting
    top_k: int
    column: Column
    before: float
    after: float
    difference: Figure
    """For times: of their logarithms, both in units of the reference's time."""
    verdict: str = "same"
    """``better``, ``worse``, or ``same`` where the difference is no more than noise."""

    @property
    def change(self) -> Figure:
        """The difference; for times, the ratio."""
        if not self.column.is_time:
            return self.difference
        return Figure(*map(math.exp, self.difference))


class ReportComparison(NamedTuple):
    """The comparison of everything that both reports contain."""

    changes: list[Change]
    relative: bool
    """Whether times are compared in units of the times of `exact`, or in seconds."""
    only_before: list[str]
    only_after: list[str]
    differences: list[str]
    """Differences in machine, versions and plan."""

    def notes(self) -> Iterator[str]:
        """Yield sentences about everything that the table of changes does not show."""
        same = sum(change.verdict == "same" for change in self.changes)
        yield f"{same} of {len(self.changes)} figures differ by no more than noise."
        if self.relative:
            yield f"Times are compared in units of the time of {REFERENCE} in the same rounds."
        else:
            yield (
                "Times are compared in seconds, so other load on the machines affects them: "
                f"measure {REFERENCE} in both runs, then times are compared in units of its times."
            )
        for name, settings in (("A", self.only_before), ("B", self.only_after)):
            if settings:
                yield f"Only in {name}: {', '.join(settings)}."
        if self.differences:
            yield f"Different in A and B: {'; '.join(self.differences)}."


def compare(before: BenchReport, after: BenchReport) -> ReportComparison:
    """Compare two reports of the same capture.

    Every figure has a confidence interval. A difference counts if it is larger than the two
    intervals explain; at most 5% of all verdicts are expected to be wrong (Benjamini and
    Hochberg 1995). Other load on a machine changes the times of a run: they are compared in units
    of the time that `exact` took in the same rounds.

    Raises
    ------
    InputError
        The captures differ, or the reports have nothing in common.
    """
    require_packages("fotmem bench compare", "scipy")
    _require_same_capture(before, after)
    one, other = (_rows(report) for report in (before, after))
    common = [key for key in one if key in other]
    if not common:
        raise InputError(
            "the two reports have no setting on the same layer with the same number of keys in "
            "common: measure the same --stores, --layers and --top-k"
        )
    relative = all(
        rows[key].relative_latency is not None for rows in (one, other) for key in common
    )
    groups: dict[tuple[str, int], list[_Key]] = {}
    for key in common:
        groups.setdefault((key.setting, key.top_k), []).append(key)
    changes = [
        _change(column, [_pair(column, one, other, key, relative) for key in keys], one[keys[0]])
        for keys in groups.values()
        for column in COMPARED
        if not (relative and column.is_time and one[keys[0]].setting.store == REFERENCE)
    ]
    return ReportComparison(
        changes=_with_verdicts(changes),
        relative=relative,
        only_before=_names(one, other),
        only_after=_names(other, one),
        differences=list(_differences(before, after)),
    )


class _Key(NamedTuple):
    setting: str
    layer: int
    top_k: int


class _Pair(NamedTuple):
    """A figure on one layer in both reports, and the difference."""

    before: float
    after: float
    difference: float
    """For times: the logarithm of the ratio."""
    variance: float


def _rows(report: BenchReport) -> dict[_Key, Row]:
    return {_Key(row.setting.key, row.layer, row.top_k): row for row in report.rows}


def _pair(
    column: Column, one: dict[_Key, Row], other: dict[_Key, Row], key: _Key, relative: bool
) -> _Pair:
    first, second = _figure(column, one[key]), _figure(column, other[key])
    if not column.is_time:
        variance = _variance(first) + _variance(second)
        return _Pair(first.value, second.value, second.value - first.value, variance)
    units = [
        _known(column.relative(row)) if relative and column.relative else _figure(column, row)
        for row in (one[key], other[key])
    ]
    before, after = (Figure(*map(math.log, unit)) for unit in units)
    variance = _variance(before) + _variance(after)
    return _Pair(first.value, second.value, after.value - before.value, variance)


def _figure(column: Column, row: Row) -> Figure:
    return _known(column.of(row))


def _known(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def _variance(figure: Figure) -> float:
    return float((figure.high - figure.low) / (2 * HALF)) ** 2


def _change(column: Column, pairs: Sequence[_Pair], row: Row) -> Change:
    mean = fmean(pair.difference for pair in pairs)
    half = HALF * math.sqrt(sum(pair.variance for pair in pairs)) / len(pairs)
    return Change(
        setting=row.setting,
        top_k=row.top_k,
        column=column,
        before=fmean(pair.before for pair in pairs),
        after=fmean(pair.after for pair in pairs),
        difference=Figure(mean, mean - half, mean + half),
    )


def _with_verdicts(changes: Sequence[Change]) -> list[Change]:
    from scipy.stats import false_discovery_control

    adjusted = false_discovery_control([_chance(change.difference) for change in changes])
    return [
        change._replace(verdict=_verdict(change)) if chance < LEVEL else change
        for change, chance in zip(changes, adjusted, strict=True)
    ]


def _verdict(change: Change) -> str:
    more = change.difference.value > 0
    return "better" if more == (change.column.best > 0) else "worse"


def _chance(difference: Figure) -> float:
    """Return the probability of so large a difference by chance."""
    deviation = math.sqrt(_variance(difference))
    if deviation == 0:
        return float(difference.value == 0)
    return math.erfc(abs(difference.value) / deviation / math.sqrt(2))


def _require_same_capture(before: BenchReport, after: BenchReport) -> None:
    for name in sorted({*before.capture, *after.capture}):
        one, other = before.capture.get(name), after.capture.get(name)
        if one != other:
            raise InputError(
                f"the reports are of different captures ({name} is {one} and {other}): compare "
                "reports of the same keys and queries"
            )


def _names(rows: dict[_Key, Row], others: dict[_Key, Row]) -> list[str]:
    known = {key.setting for key in others}
    only = (row.setting for key, row in rows.items() if key.setting not in known)
    return list(dict.fromkeys(map(str, only)))


def _differences(before: BenchReport, after: BenchReport) -> Iterator[str]:
    for what in ("machine", "versions", "measured"):
        one, other = getattr(before, what), getattr(after, what)
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                yield f"{what} {name}: {one.get(name)}, then {other.get(name)}"
