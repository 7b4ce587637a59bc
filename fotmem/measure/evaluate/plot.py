"""Curves as a picture: the quality of a model's answers against the figures of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from fotmem.errors import require_packages
from fotmem.measure.bench.plot import mark
from fotmem.measure.evaluate.curves import ENOUGH, QUALITIES, Curve
from fotmem.measure.evaluate.store_quality import FIGURES
from fotmem.outputs import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(curves: Sequence[Curve], file: Path) -> None:
    """Write a PNG: a row of panels for each curve, a panel for each figure; better is to the right.

    The dashed line is at 95% of the quality with `exact`.
    """
    names = list(dict.fromkeys(point.setting.store for each in curves for point in each.points))
    require_packages("pictures", "matplotlib")
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(4 * len(FIGURES), 3.6 * len(curves) + 0.4), layout="constrained")
    axes = picture.subplots(len(curves), len(FIGURES), squeeze=False, sharey="row")
    for row, curve in zip(axes, curves, strict=True):
        for panel, figure in zip(row, FIGURES, strict=True):
            _panel(panel, curve, figure, names)
        row[0].set_title(f"{curve.task}, {curve.tokens:,} tokens", loc="left")
        row[0].set_ylabel(QUALITIES[curve.task].name)
    shown = {
        label: line
        for row in axes
        for line, label in zip(*row[0].get_legend_handles_labels(), strict=True)
    }
    picture.legend(
        shown.values(), shown, loc="outside upper right", ncols=len(shown), frameon=False
    )
    write_picture(picture, file)


def _panel(axes: Axes, curve: Curve, figure: str, names: Sequence[str]) -> None:
    for number, store in enumerate(names):
        points = [point for point in curve.points if point.setting.store == store]
        if not points:
            continue
        points.sort(key=lambda point: getattr(point.store_quality, figure).value)
        x = [getattr(point.store_quality, figure) for point in points]
        y = [point.quality for point in points]
        mark(axes, number, store, x, y, line="-")
    if curve.exact is not None:
        axes.axhline(ENOUGH * curve.exact.quality.value, color="grey", lw=0.8, ls="--")
    axes.set_xlabel(fill(f"{FIGURES[figure].name}: {FIGURES[figure].meaning}", 48))
    if FIGURES[figure].better < 0:
        axes.invert_xaxis()
    axes.grid(alpha=0.2)
