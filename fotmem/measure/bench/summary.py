"""The columns of a report, and the figures of each setting over all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.report import BenchReport, Row
from fotmem.measure.setting import Setting


class Column(NamedTuple):
    """A figure in tables, pictures and the interactive report."""

    name: str
    unit: str
    """Empty for shares."""
    meaning: str
    """One sentence."""
    of: Callable[[Row], Figure | None]
    """Returns the figure of a row; None where it is not known."""
    best: int = -1
    """1: higher is better; -1: lower is better."""
    format: str = ".3f"
    over: Callable[[Iterable[float]], float] = fmean
    """Combines the figures of several layers."""
    brief: bool = True
    """Whether the terminal's table shows it."""
    relative: Callable[[Row], Figure | None] | None = None
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


def _rate(row: Row) -> Figure:
    seconds, queries = row.window_latency, row.window_queries
    return Figure(queries / seconds.value, queries / seconds.high, queries / seconds.low)


def _relative_rate(row: Row) -> Figure | None:
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


class SettingSummary(NamedTuple):
    """The rows of all layers of one setting with one `top_k`."""

    setting: Setting
    top_k: int
    rows: Sequence[Row]

    def figure(self, column: Column) -> Figure | None:
        """Return a figure, and the ends of its interval, over all layers; None: not known."""
        known = [figure for figure in map(column.of, self.rows) if figure is not None]
        return Figure(*map(column.over, zip(*known, strict=True))) if known else None

    def of_layer(self, layer: int) -> SettingSummary:
        """Return the summary of one layer."""
        return self._replace(rows=[row for row in self.rows if row.layer == layer])


def summaries(report: BenchReport) -> list[SettingSummary]:
    """Group the layers of each setting, in the order of stores, then of options."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in report.rows:
        found.setdefault((row.setting.key, row.top_k), []).append(row)
    every = [SettingSummary(rows[0].setting, rows[0].top_k, rows) for rows in found.values()]
    order = stores(report)
    return sorted(
        every,
        key=lambda each: (each.top_k, order.index(each.setting.store), _values(each.setting)),
    )


def stores(report: BenchReport) -> list[str]:
    """Name the stores of a report, in its order."""
    return list(dict.fromkeys(row.setting.store for row in report.rows))


def _values(setting: Setting) -> Sequence[tuple[str, str]]:
    return [(name, f"{value:>20}") for name, value in setting.options.items()]
