"""``fotmem eval curve``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.task import shown
from fotmem.cli.legend import explain
from fotmem.errors import require_packages
from fotmem.outputs import check_file

if TYPE_CHECKING:
    from fotmem.measure.evaluate.curves import Curve, Threshold

EXPLAINED = {
    "predicts": "rank correlation of figure and quality over settings, with its 95% interval",
    "needed": "value of the figure that keeps 95% of the quality with exact; 'or worse': all "
    "settings reach it",
}


def curve(
    reports: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT...", help="Reports of fotmem eval with --stores."),
    ],
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves into this PNG file.")
    ] = None,
) -> None:
    """Show which figure of a store predicts the quality of a model's answers.

    It also shows how much of each figure is needed for 95% of the quality with exact.

    Example: fotmem eval curve passkey.json perplexity.json --png curves.png
    """
    require_packages("fotmem eval curve", "scipy", *(["matplotlib"] if png else []))
    if png is not None:
        check_file(png, inputs=reports)
    from fotmem.measure.evaluate.curves import read_curves

    every = [each for file in reports for each in read_curves(file)]
    console = Console()
    for each in every:
        console.print(_table(each))
    explain(console, EXPLAINED)
    if png is not None:
        from fotmem.measure.evaluate.plot import draw

        draw(every, png)
        print(png)


def _table(curve: "Curve") -> Table:
    from fotmem.measure.evaluate.curves import QUALITIES
    from fotmem.measure.evaluate.store_quality import FIGURES

    table = Table("figure", "predicts", "needed", title=f"{curve.task}, {curve.tokens:,} tokens")
    exact = "not measured" if curve.exact is None else shown(curve.exact.quality)
    table.caption = f"{QUALITIES[curve.task].name} with exact: {exact}\n"
    best = (
        ", ".join(FIGURES[figure].name for figure in curve.best)
        or "no figure, the quality is the same"
    )
    alike = ", which differ by no more than noise" if len(curve.best) > 1 else ""
    table.caption += f"predicts best: {best}{alike}"
    for figure, about in FIGURES.items():
        table.add_row(about.name, shown(curve.predicts(figure)), _needed(curve.needed(figure)))
    return table


def _needed(needed: "Threshold | None") -> str:
    if needed is None:
        return "-"
    return f"{needed.value.value:.3f} or worse" if needed.is_bound else shown(needed.value)
