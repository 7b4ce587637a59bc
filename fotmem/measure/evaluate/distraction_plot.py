"""Distraction as a picture: attention on the right document against documents in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fotmem.errors import require_packages
from fotmem.measure.bench.figures import Figure
from fotmem.measure.bench.plot import PAGE_WIDTH, mark
from fotmem.measure.evaluate.distraction import DistractionRow
from fotmem.outputs import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "right_document": "mean over queries",
    "right_document_weighted": "queries weighted by attention on memory",
}


def draw_distraction(curves: Mapping[str, Sequence[DistractionRow]], file: Path) -> None:
    """Write a PNG with a curve for each name, such as "before tuning" and "after tuning".

    The left panel shows `right_document`, the right one `right_document_weighted`. The dashed line
    is at ``1/d``: the share if the model does not distinguish documents.
    """
    require_packages("pictures", "matplotlib")
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(PAGE_WIDTH, 4), layout="constrained")
    for axes, figure in zip(picture.subplots(1, len(NAMES), sharey=True), NAMES, strict=True):
        _panel(axes, curves, figure)
    shown = picture.axes[0].get_legend_handles_labels()
    picture.legend(*shown, loc="outside upper center", ncols=3, frameon=False)
    picture.supxlabel("documents in memory (d)", size="medium")
    picture.axes[0].set_ylabel(
        "attention on the right document,\nas a share of attention on memory"
    )
    write_picture(picture, file)


def _panel(axes: Axes, curves: Mapping[str, Sequence[DistractionRow]], figure: str) -> None:
    for number, (name, rows) in enumerate(curves.items()):
        x = [Figure(*[row.documents] * 3) for row in rows]
        mark(axes, number, name, x, [getattr(row, figure) for row in rows], line="-")
    sizes = sorted({row.documents for rows in curves.values() for row in rows})
    axes.plot(sizes, [1 / size for size in sizes], color="grey", lw=0.8, ls="--", label="1/d")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [f"{size}" for size in sizes])
    axes.set_yticks([1 / size for size in sizes], [f"{1 / size:.3g}" for size in sizes])
    axes.set_title(NAMES[figure], loc="left", size="medium")
    axes.grid(alpha=0.2)
