"""Curves as a picture: the quality of a model's answers against the figures of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fotmem.errors import require_packages
from fotmem.measure.bench.plot import PAGE_WIDTH, mark
from fotmem.measure.evaluate.curves import ENOUGH, QUALITIES, Curve
from fotmem.measure.evaluate.store_quality import FIGURES
from fotmem.outputs import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 2
"""Rows of panels for each curve."""


def draw(curves: Sequence[Curve], file: Path) -> None:
    """Write a PNG: two rows of panels for each curve, a panel for each figure.

    Better is to the right: the axes of errors are reversed, and their labels say so. The dashed
    line is at 95% of the quality with `exact`.
    """
    names = list(dict.fromkeys(point.setting.store for each in curves for point in each.points))
    require_packages("pictures", "matplotlib")
    from matplotlib.figure import Figure as Picture

    rows = ROWS * len(curves)
    picture = Picture(figsize=(PAGE_WIDTH, 2.3 * rows + 0.4), layout="constrained")
    axes = picture.subplots(rows, len(FIGURES) // ROWS, squeeze=False, sharey="row")
    for number, curve in enumerate(curves):
        mine = axes[ROWS * number : ROWS * (number + 1)]
        for panel, figure in zip(mine.flat, FIGURES, strict=True):
            _panel(panel, curve, figure, names)
        mine[0][0].set_title(f"{curve.task}, {curve.tokens:,} tokens", loc="left")
        for row in mine:
            row[0].set_ylabel(QUALITIES[curve.task].name)
    shown = {
        label: line
        for row in axes
        for line, label in zip(*row[0].get_legend_handles_labels(), strict=True)
    }
    picture.legend(
        shown.values(), shown, loc="outside upper center", ncols=min(len(shown), 5), frameon=False
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
    name = FIGURES[figure].name
    axes.set_xlabel(name)
    if FIGURES[figure].better < 0:
        axes.set_xlabel(f"{name} (axis reversed)")
        axes.invert_xaxis()
    axes.grid(alpha=0.2)
