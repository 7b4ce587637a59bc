"""A report as tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from fotmem.measure.bench.compare import Change, ReportComparison
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.bench.summary import (
    ALL_KEYS,
    COLUMNS,
    Column,
    SettingSummary,
    all_keys_summaries,
    stores,
    summaries,
)

SHOWN = [column for column in COLUMNS if column.brief]
WIDTH = 150
"""Characters of a table."""


def tables(report: BenchReport) -> Iterator[Table]:
    """Yield a table for each `top_k`, of attention to all keys, of growth, and of failures."""
    every = summaries(report)
    layers = _of(len({row.layer for row in report.rows}))
    for top_k in sorted({row.top_k for row in report.rows}):
        mine = [each for each in every if each.top_k == top_k]
        yield _summarised(f"top {top_k}, {layers}", mine, SHOWN)
    if report.all_keys:
        attending = all_keys_summaries(report)
        yield _summarised(f"all keys, {layers}", attending, ALL_KEYS)
        yield _calibrated(attending)
    if report.growth:
        yield _growth(report)
    if report.failures:
        table = Table("not measured", "layer", "reason")
        for failure in report.failures:
            table.add_row(escape(str(failure.setting)), str(failure.layer), escape(failure.reason))
        yield table


def _summarised(title: str, every: Iterable[SettingSummary], columns: Sequence[Column]) -> Table:
    table = _table(title, "store", *map(_heading, columns))
    for each in every:
        table.add_row(escape(str(each.setting)), *(_cell(each, column) for column in columns))
    return table


def _calibrated(every: Iterable[SettingSummary]) -> Table:
    """Show estimated and true errors, which should be alike."""
    quarters = [f"{quarter}\nquarter" for quarter in ("lowest", "second", "third", "highest")]
    title = "estimated / true error of quarters of the queries, by estimated error"
    table = _table(title, "store", *quarters)
    for each in every:
        if found := each.calibration():
            table.add_row(
                escape(str(each.setting)),
                *(f"{error.estimated:.3f} / {error.true:.3f}" for error in found),
            )
    return table


def changes(comparison: ReportComparison) -> Table:
    """Return the changes that are better or worse."""
    columns = ("top", "figure", "A", "B", "change", "95% interval", "verdict")
    table = _table("A to B", "store", *columns)
    for change in comparison.changes:
        if change.verdict != "same":
            colour = "green" if change.verdict == "better" else "red"
            verdict = f"[{colour}]{change.verdict}[/{colour}]"
            low, high = (_changed(change, end) for end in change.change[1:])
            table.add_row(
                escape(str(change.setting)),
                str(change.top_k),
                change.column.title,
                format(change.before, change.column.format),
                format(change.after, change.column.format),
                _changed(change, change.change.value),
                f"{low} to {high}",
                verdict,
            )
    return table


def _changed(change: Change, value: float) -> str:
    return f"{value:.2f} times" if change.column.is_time else f"{value:+.3f}"


def _growth(report: BenchReport) -> Table:
    """Show attention-mass recall and latency as the memory grows, with default options."""
    sizes = sorted({row.size for row in report.growth})
    some = sorted({sizes[round(i * (len(sizes) - 1) / 3)] for i in range(4)})
    titles = ("attention-\nmass recall", "latency\n(ms)")
    columns = [f"{title}\n{size:,}" for title in titles for size in some]
    top_k = max(row.top_k for row in report.growth)
    table = _table(f"while growing, top {top_k}, default options", "store", *columns)
    for store in stores(report):
        rows = [row for row in report.growth if row.setting.store == store]
        mine = [row for row in rows if row.setting == rows[0].setting]
        at = [[row for row in mine if row.size == size] for size in some]
        masses = [_mean((row.attention_mass_recall.value for row in rows), ".3f") for rows in at]
        times = [_mean((1e3 * row.latency for row in rows), ".2f") for rows in at]
        table.add_row(escape(str(rows[0].setting)), *masses, *times)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    """Lay out a table that breaks long names into lines, and never a number."""
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _mean(values: Iterable[float], digits: str) -> str:
    """Format the mean of values; "-" where there are none."""
    known = list(values)
    return format(fmean(known), digits) if known else "-"


def _heading(column: Column) -> str:
    """Return name and unit of a column, a line for each word."""
    return re.sub(" |(?<=-)", "\n", f"{column.name} {column.unit}".strip())


def _cell(summary: SettingSummary, column: Column) -> str:
    figure = summary.figure(column)
    return "-" if figure is None else format(figure.value, column.format)


def _of(layers: int) -> str:
    return "one layer" if layers == 1 else f"mean of {layers} layers"
