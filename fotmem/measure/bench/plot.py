"""A report as a picture: error and recall against latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fotmem.errors import require_packages
from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.bench.summary import BY_NAME, Column, SettingSummary, stores, summaries
from fotmem.outputs import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of stores, in the order of the report (Okabe and Ito 2008); the ninth is the first."""
MARKERS = "os^Dv<>P"
PAGE_WIDTH = 8.0
"""Inches of a picture: at the width of a page its letters are as large as those of the text."""
NOTHING = 1e-6
"""Smallest relative error on the logarithmic axis: rounding of `exact` itself is about this."""


class PlotPoint(NamedTuple):
    """The place of a setting in a picture."""

    x: Figure
    y: Figure


def draw(report: BenchReport, file: Path) -> None:
    """Write a PNG: error of the attention output and recall against latency, a row per top k.

    A line joins the points of a store that none of its other points beats in both figures: its
    Pareto front.
    """
    every, names = summaries(report), stores(report)
    asked = sorted({row.top_k for row in report.rows})
    require_packages("pictures", "matplotlib")
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(PAGE_WIDTH, 3 * len(asked) + 0.9), layout="constrained")
    axes = picture.subplots(len(asked), 2, squeeze=False)
    for (left, right), top_k in zip(axes, asked, strict=True):
        some = [each for each in every if each.top_k == top_k]
        _panel(left, some, names, BY_NAME["error"])
        _panel(right, some, names, BY_NAME["recall"])
        left.set(yscale="log", ylabel="error of the attention output")
        left.set_title(f"top {top_k}", loc="left")
        right.set(ylabel=f"recall@{top_k}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside upper center", ncols=min(len(names), 5))
    picture.supxlabel("latency of one query of each head, median (ms)", size="medium")
    write_picture(picture, file)


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each store."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def front(points: Sequence[PlotPoint], best: int) -> list[PlotPoint]:
    """Return the points that no other beats in both: lower x, and lower (`best` -1) or higher y."""
    found: list[PlotPoint] = []
    for point in sorted(points, key=lambda each: (each.x.value, -best * each.y.value)):
        if not found or best * point.y.value > best * found[-1].y.value:
            found.append(point)
    return found


def _panel(
    axes: Axes, every: Sequence[SettingSummary], names: Sequence[str], column: Column
) -> None:
    colour = colours(names)
    for number, store in enumerate(names):
        points = [_point(each, column) for each in every if each.setting.store == store]
        if not points:
            continue
        along = front(points, column.best)
        axes.plot([p.x.value for p in along], [p.y.value for p in along], color=colour[store], lw=1)
        mark(axes, number, store, [p.x for p in points], [p.y for p in points])
    axes.set_xscale("log")
    axes.grid(which="both", alpha=0.2)


def _point(summary: SettingSummary, column: Column) -> PlotPoint:
    x, y = summary.figure(BY_NAME["p50"]), summary.figure(column)
    assert x is not None
    assert y is not None
    return PlotPoint(x, Figure(*(max(end, NOTHING) for end in y)))


def mark(
    axes: Axes, number: int, name: str, x: Sequence[Figure], y: Sequence[Figure], *, line: str = ""
) -> None:
    """Draw figures and intervals in the colour and marker of `number`; `line` joins them."""
    axes.errorbar(
        [each.value for each in x],
        [each.value for each in y],
        xerr=_reach(x),
        yerr=_reach(y),
        fmt=MARKERS[number % len(MARKERS)] + line,
        color=COLOURS[number % len(COLOURS)],
        ms=5,
        lw=1,
        elinewidth=0.7,
        label=name,
    )


def _reach(figures: Sequence[Figure]) -> list[list[float]]:
    """Return the lengths of intervals below and above, as matplotlib's error bars take them."""
    return [
        [max(0.0, each.value - each.low) for each in figures],
        [max(0.0, each.high - each.value) for each in figures],
    ]
