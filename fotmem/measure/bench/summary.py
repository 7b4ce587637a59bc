"""What is shown of a report: a figure per column, for each setting over all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.report import BenchReport, Row
from fotmem.measure.setting import Setting


class Column(NamedTuple):
    """A figure that is shown."""

    name: str
    unit: str
    """Empty for shares."""
    meaning: str
    """One sentence."""
    of: Callable[[Row], Figure | None]
    """None where it is not known."""
    best: int = -1
    """1: more is better; -1: less."""
    format: str = ".3f"
    over: Callable[[Iterable[float]], float] = fmean
    """What is made of several layers' figures."""
    brief: bool = True
    """Whether it is in the terminal's table."""
    relative: Callable[[Row], Figure | None] | None = None
    """The same in units of `exact`'s in the same rounds."""

    @property
    def is_time(self) -> bool:
        """Whether reports are compared by ratio: all that has both a unit and an interval."""
        return bool(self.unit)


def _times(factor: float, figure: Figure) -> Figure:
    return Figure(*(factor * end for end in figure))


def _single(value: float | None) -> Figure | None:
    return None if value is None else Figure(value, value, value)


def _rate(row: Row) -> Figure:
    seconds, queries = row.window, row.window_queries
    return Figure(queries / seconds.value, queries / seconds.high, queries / seconds.low)


def _relative_rate(row: Row) -> Figure | None:
    times = row.window_relative
    return None if times is None else Figure(1 / times.value, 1 / times.high, 1 / times.low)


COLUMNS = (
    Column(
        "recall",
        "",
        "share of the k best keys that are among the k found",
        lambda row: row.recall,
        best=1,
    ),
    Column(
        "mass",
        "",
        "softmax weight of the keys found, as a share of that of the k best",
        lambda row: row.mass,
        best=1,
    ),
    Column(
        "least", "", "mass on the layer where it is the least", lambda row: row.mass, 1, over=min
    ),
    Column(
        "error",
        "",
        "of the attention output, relative to attention to all keys: mean",
        lambda row: row.error,
    ),
    Column(
        "error p95",
        "",
        "error of the attention output that 95 of 100 queries do not exceed",
        lambda row: row.error_p95,
        brief=False,
    ),
    Column(
        "added",
        "",
        "error that the store adds: of the output, relative to attention to the k best keys, mean",
        lambda row: row.topk_error,
    ),
    Column(
        "read",
        "",
        "share of the keys that a query is compared with; - where the store cannot tell",
        lambda row: _single(row.share_read),
    ),
    Column(
        "p50",
        "ms",
        "milliseconds of attention with one query of each head: median",
        lambda row: _times(1e3, row.one_p50),
        format=".2f",
        relative=lambda row: row.one_relative,
    ),
    Column(
        "p95",
        "ms",
        "the same, which 95 of 100 do not exceed",
        lambda row: _times(1e3, row.one_p95),
        format=".2f",
        brief=False,
    ),
    Column(
        "p99",
        "ms",
        "the same, which 99 of 100 do not exceed",
        lambda row: _times(1e3, row.one_p99),
        format=".2f",
    ),
    Column(
        "queries/s",
        "1/s",
        "queries of each head answered a second, 512 at a time",
        _rate,
        best=1,
        format=",.0f",
        relative=_relative_rate,
    ),
    Column(
        "add",
        "s",
        "seconds to add all tokens",
        lambda row: _single(row.build.seconds),
        format=".1f",
    ),
    Column(
        "longest",
        "ms",
        "milliseconds of the longest add of 2,048 tokens",
        lambda row: _single(1e3 * row.build.add_longest),
        format=",.0f",
        over=max,
    ),
    Column(
        "RAM",
        "B",
        "bytes of memory per token and layer",
        lambda row: _single(row.build.ram),
        format=",.0f",
    ),
    Column(
        "disk",
        "B",
        "bytes on disk per token and layer",
        lambda row: _single(row.build.disk),
        format=",.0f",
    ),
)
BY_NAME = {column.name: column for column in COLUMNS}


class SettingSummary(NamedTuple):
    """A setting asked for so many keys: its rows of all layers."""

    setting: Setting
    top_k: int
    rows: Sequence[Row]

    def figure(self, column: Column) -> Figure | None:
        """Return a figure over all layers, and so the ends of its interval; None: not known."""
        known = [figure for figure in map(column.of, self.rows) if figure is not None]
        return Figure(*map(column.over, zip(*known, strict=True))) if known else None

    def of_layer(self, layer: int) -> SettingSummary:
        """Return what there is of one layer."""
        return self._replace(rows=[row for row in self.rows if row.layer == layer])


def summaries(report: BenchReport) -> list[SettingSummary]:
    """Put the layers of a setting together; in the order of stores, then of options."""
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
