"""A report as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from fotmem.measure.bench.compare import Change, ReportComparison
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.bench.summary import COLUMNS, Column, SettingSummary, stores, summaries

SHOWN = [column for column in COLUMNS if column.brief]
WIDTH = 130
"""Characters of a table."""


def tables(report: BenchReport) -> Iterator[Table]:
    """Yield a table for each number of keys that was asked for, then of growth, and of failures."""
    every = summaries(report)
    layers = _of(len({row.layer for row in report.rows}))
    for top_k in sorted({each.top_k for each in every}):
        table = _table(f"top {top_k}, {layers}", "store", *(column.name for column in SHOWN))
        for each in every:
            if each.top_k == top_k:
                table.add_row(escape(str(each.setting)), *(_cell(each, column) for column in SHOWN))
        yield table
    if report.growth:
        yield _growth(report)
    if report.failures:
        table = Table("not measured", "layer", "reason")
        for failure in report.failures:
            table.add_row(escape(str(failure.setting)), str(failure.layer), escape(failure.reason))
        yield table


def changes(comparison: ReportComparison) -> Table:
    """Show what got better or worse."""
    table = _table("A to B", "store", "top", "figure", "A", "B", "change", "", "")
    for change in comparison.changes:
        if change.verdict != "same":
            colour = "green" if change.verdict == "better" else "red"
            verdict = f"[{colour}]{change.verdict}[/{colour}]"
            low, high = (_changed(change, end) for end in change.change[1:])
            table.add_row(
                escape(str(change.setting)),
                str(change.top_k),
                change.column.name,
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
    """Show how mass and the time of one query change as the memory grows, by default."""
    sizes = sorted({row.size for row in report.growth})
    some = sorted({sizes[round(i * (len(sizes) - 1) / 3)] for i in range(4)})
    columns = [f"{what} {size:,}" for what in ("mass", "ms") for size in some]
    top_k = max(row.top_k for row in report.growth)
    table = _table(f"while growing, top {top_k}, default effort", "store", *columns)
    for store in stores(report):
        rows = [row for row in report.growth if row.setting.store == store]
        mine = [row for row in rows if row.setting == rows[0].setting]
        at = [[row for row in mine if row.size == size] for size in some]
        mass = [f"{fmean(r.mass.value for r in rows):.3f}" if rows else "-" for rows in at]
        times = [f"{1e3 * fmean(r.one for r in rows):.2f}" if rows else "-" for rows in at]
        table.add_row(escape(str(rows[0].setting)), *mass, *times)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    """Lay out a table in which long names are broken into lines, and no number is."""
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cell(summary: SettingSummary, column: Column) -> str:
    figure = summary.figure(column)
    return "-" if figure is None else format(figure.value, column.format)


def _of(layers: int) -> str:
    return "one layer" if layers == 1 else f"mean of {layers} layers"
