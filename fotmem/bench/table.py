"""A report as a table for the terminal: a line per setting, over all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from rich.table import Table

from fotmem.bench.report import BenchReport, Row, Setting

EXPLAINED = {
    "recall": "share of the k best keys that are among the k found",
    "mass": "softmax weight of the keys found, as a share of that of the k best",
    "least": "mass on the layer where it is the least",
    "error": "of the attention output, relative to attention to all keys: mean",
    "read": "share of the keys that a query is compared with; - where the store cannot tell",
    "p50": "milliseconds of attention with one query of each head: median",
    "p99": "the same, which 99 of 100 do not exceed",
    "queries/s": "answered a second, 512 of each head at a time",
    "add": "seconds to add all tokens",
    "longest": "milliseconds of the longest add of 2,048 tokens",
    "RAM": "bytes per token and layer",
    "disk": "the same, on disk",
}
"""What a column shows, in one sentence."""
WIDTH = 120
"""Characters of the table."""


class Summary(NamedTuple):
    """A setting asked for so many keys: its rows of all layers."""

    setting: Setting
    top_k: int
    rows: list[Row]

    def mean(self, figure: Callable[[Row], float]) -> float:
        """Return the mean over layers."""
        return fmean(map(figure, self.rows))


def summaries(report: BenchReport) -> list[Summary]:
    """Put the layers of a setting together; in the order of stores, then of options."""
    found: dict[tuple[str, int], Summary] = {}
    for row in report.rows:
        key = (row.setting.key, row.top_k)
        found.setdefault(key, Summary(row.setting, row.top_k, [])).rows.append(row)
    stores = list(dict.fromkeys(row.setting.store for row in report.rows))
    return sorted(
        found.values(),
        key=lambda each: (each.top_k, stores.index(each.setting.store), _values(each.setting)),
    )


def tables(report: BenchReport) -> Iterator[Table]:
    """Yield a table for each number of keys that was asked for, then one of what failed."""
    every = summaries(report)
    layers = len({row.layer for row in report.rows})
    for top_k in sorted({each.top_k for each in every}):
        table = Table(title=f"top {top_k}, mean of {layers} layers")
        table.add_column("store", no_wrap=True)
        for name in EXPLAINED:
            table.add_column(name, justify="right", no_wrap=True)
        for each in every:
            if each.top_k == top_k:
                table.add_row(*_cells(each))
        yield table
    if report.failures:
        table = Table("not measured", "layer", "reason")
        for failure in report.failures:
            table.add_row(str(failure.setting), str(failure.layer), failure.reason)
        yield table


def _cells(each: Summary) -> Iterator[str]:
    yield str(each.setting)
    yield f"{each.mean(lambda row: row.recall.value):.3f}"
    yield f"{each.mean(lambda row: row.mass.value):.3f}"
    yield f"{min(row.mass.value for row in each.rows):.3f}"
    yield f"{each.mean(lambda row: row.error.value):.3f}"
    known = [row.share_read for row in each.rows if row.share_read is not None]
    yield f"{fmean(known):.3f}" if known else "-"
    yield f"{1e3 * each.mean(lambda row: row.one_p50.value):.2f}"
    yield f"{1e3 * each.mean(lambda row: row.one_p99.value):.2f}"
    yield f"{each.mean(lambda row: row.window_queries / row.window.value):,.0f}"
    yield f"{each.mean(lambda row: row.build.seconds):.1f}"
    yield f"{1e3 * max(row.build.add_longest for row in each.rows):,.0f}"
    yield f"{each.mean(lambda row: row.build.ram):,.0f}"
    yield f"{each.mean(lambda row: row.build.disk):,.0f}"


def _values(setting: Setting) -> Sequence[tuple[str, str]]:
    return [(name, f"{value:>20}") for name, value in setting.options.items()]
