"""The columns of a report, and the figures of each setting over all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.report import AllKeysRow, BenchReport, EstimatedError, Row
from fotmem.measure.setting import Setting


class Column(NamedTuple):
    """A figure in tables, pictures and the interactive report."""

    name: str
    unit: str
    """Empty for shares."""
    meaning: str
    """One sentence."""
    of: Callable[[Any], Figure | None]
    """Returns the figure of a row, a `Row` or an `AllKeysRow`; None where it is not known."""
    best: int = -1
    """1: higher is better; -1: lower is better."""
    format: str = ".3f"
    over: Callable[[Iterable[float]], float] = fmean
    """Combines the figures of several layers."""
    brief: bool = True
    """Whether the terminal's table shows it."""
    relative: Callable[[Any], Figure | None] | None = None
    """Returns the figure in units of the same figure of `exact` in the same rounds."""

    @property
    def is_time(self) -> bool:
        """Whether two reports are compared by their ratio: true of everything with a unit."""
        return bool(self.unit)

    @property
    def title(self) -> str:
        """The name, with the unit in brackets where there is one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def _times(factor: float, figure: Figure) -> Figure:
    return Figure(*(factor * end for end in figure))


def _single(value: float | None) -> Figure | None:
    return None if value is None else Figure(value, value, value)


def _rate(row: Row | AllKeysRow) -> Figure:
    seconds, queries = row.window_latency, row.window_queries
    return Figure(queries / seconds.value, queries / seconds.high, queries / seconds.low)


def _relative_rate(row: Row | AllKeysRow) -> Figure | None:
    times = row.relative_window_latency
    return None if times is None else Figure(1 / times.value, 1 / times.high, 1 / times.low)


COLUMNS = (
    Column(
        "recall",
        "",
        "share of the k best keys that are among the k keys found",
        lambda row: row.recall,
        best=1,
    ),
    Column(
        "attention-mass recall",
        "",
        "softmax mass of the keys found, as a share of the softmax mass of the k best keys",
        lambda row: row.attention_mass_recall,
        best=1,
    ),
    Column(
        "worst layer",
        "",
        "attention-mass recall on the layer where it is lowest",
        lambda row: row.attention_mass_recall,
        1,
        over=min,
    ),
    Column(
        "error",
        "",
        "relative error of the attention output against attention to all keys: mean",
        lambda row: row.error,
    ),
    Column(
        "error p95",
        "",
        "relative error of the attention output that 95 of 100 queries do not exceed",
        lambda row: row.error_p95,
        brief=False,
    ),
    Column(
        "excess error",
        "",
        "relative error of the attention output against attention to the k best keys: mean",
        lambda row: row.excess_error,
    ),
    Column(
        "keys read",
        "",
        "share of the keys that a query is compared with; - where the store cannot count them",
        lambda row: _single(row.share_read),
    ),
    Column(
        "p50",
        "ms",
        "latency of attention with one query of each head: median",
        lambda row: _times(1e3, row.latency_p50),
        format=".2f",
        relative=lambda row: row.relative_latency,
    ),
    Column(
        "p95",
        "ms",
        "latency that 95 of 100 queries do not exceed",
        lambda row: _times(1e3, row.latency_p95),
        format=".2f",
        brief=False,
    ),
    Column(
        "p99",
        "ms",
        "latency that 99 of 100 queries do not exceed",
        lambda row: _times(1e3, row.latency_p99),
        format=".2f",
    ),
    Column(
        "throughput",
        "queries/s",
        "queries of each head answered per second, 512 at a time",
        _rate,
        best=1,
        format=",.0f",
        relative=_relative_rate,
    ),
    Column(
        "insert",
        "s",
        "time to insert all tokens",
        lambda row: _single(row.build.seconds),
        format=".1f",
    ),
    Column(
        "max insert latency",
        "ms",
        "time of the slowest insert of 2,048 tokens",
        lambda row: _single(1e3 * row.build.max_insert_latency),
        format=",.0f",
        over=max,
    ),
    Column(
        "RAM",
        "B/token",
        "bytes of memory per token and layer",
        lambda row: _single(row.build.ram),
        format=",.0f",
    ),
    Column(
        "disk",
        "B/token",
        "bytes on disk per token and layer",
        lambda row: _single(row.build.disk),
        format=",.0f",
    ),
)
BY_NAME = {column.name: column for column in COLUMNS}
ALL_KEYS = (
    BY_NAME["error"],
    BY_NAME["error p95"],
    Column(
        "estimated error",
        "",
        "relative error that the store itself expects: mean; - where it cannot tell",
        lambda row: _single(row.estimated_error),
    ),
    BY_NAME["keys read"]._replace(
        meaning="share of the keys that a query reads; what is known of all others is estimated"
    ),
    BY_NAME["p50"],
    Column(
        "p50 / dense",
        "",
        "p50 in units of that of exact, dense attention, in the same rounds",
        lambda row: row.relative_latency,
    ),
    BY_NAME["throughput"],
    Column(
        "throughput / dense",
        "",
        "throughput in units of that of exact, dense attention, in the same rounds",
        _relative_rate,
        best=1,
        format=".2f",
    ),
)
"""Figures of attention to all keys."""


class SettingSummary(NamedTuple):
    """The rows of all layers of one setting with one `top_k`."""

    setting: Setting
    top_k: int | None
    """None: attention to all keys."""
    rows: Sequence[Row | AllKeysRow]

    def figure(self, column: Column) -> Figure | None:
        """Return a figure, and the ends of its interval, over all layers; None: not known."""
        known = [figure for figure in map(column.of, self.rows) if figure is not None]
        return Figure(*map(column.over, zip(*known, strict=True))) if known else None

    def calibration(self) -> list[EstimatedError]:
        """Return estimated and true errors of quarters of the queries: means of all layers."""
        known = [row.calibration for row in self.rows if isinstance(row, AllKeysRow)]
        quarters = zip(*filter(None, known), strict=False)
        return [EstimatedError(*map(fmean, zip(*each, strict=True))) for each in quarters]

    def of_layer(self, layer: int) -> SettingSummary:
        """Return the summary of one layer."""
        return self._replace(rows=[row for row in self.rows if row.layer == layer])


def summaries(report: BenchReport) -> list[SettingSummary]:
    """Group the layers of each setting, in the order of stores, then of options."""
    every = _by_setting(report, report.rows, lambda row: row.top_k)
    return sorted(every, key=lambda each: each.top_k or 0)


def all_keys_summaries(report: BenchReport) -> list[SettingSummary]:
    """Group the layers of each setting that was measured with all keys, in the same order."""
    return _by_setting(report, report.all_keys, lambda _: None)


def _by_setting(
    report: BenchReport, rows: Iterable[Any], top_k: Callable[[Any], int | None]
) -> list[SettingSummary]:
    found: dict[tuple[str, int | None], list[Any]] = {}
    for row in rows:
        found.setdefault((row.setting.key, top_k(row)), []).append(row)
    every = [SettingSummary(mine[0].setting, key[1], mine) for key, mine in found.items()]
    order = stores(report)
    return sorted(every, key=lambda each: (order.index(each.setting.store), _values(each.setting)))


def stores(report: BenchReport) -> list[str]:
    """Name the stores of a report, in its order."""
    rows = (*report.rows, *report.all_keys)
    return list(dict.fromkeys(row.setting.store for row in rows))


def _values(setting: Setting) -> Sequence[tuple[str, str]]:
    return [(name, f"{value:>20}") for name, value in setting.options.items()]
