"""``fotmem bench``."""

import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from fotmem.cli.command import Command
from fotmem.cli.legend import explain
from fotmem.cli.options import Grid, parse_layers, parse_stores, refuse_repeated, seed_option
from fotmem.errors import InputError, LayerError, require_packages
from fotmem.outputs import check_file

REPORT = "report.json"
EXPLAINED = {"ms 1,024": "median milliseconds of one query of each head, at so many tokens"}
COMPARED = {"change": "B minus A, or of times B over A; then its 95% interval"}
PACKAGES = ("matplotlib", "plotly", "psutil", "scipy")


class _RunByDefault(TyperGroup):
    """What names no command is what to measure."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_RunByDefault, no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure stores on a capture, or compare two measurements.

    Example: fotmem bench CAPTURE --stores exact,faiss-ivf
    """
    require_packages("fotmem bench", *PACKAGES)


@app.command("run", cls=Command)
def run(
    directory: Annotated[Path, typer.Argument(metavar="CAPTURE", help="Its folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where the report goes, or goes on; default: CAPTURE-bench, here."
        ),
    ] = None,
    stores: Annotated[
        str | None,
        typer.Option(help="Names, such as exact,hnsw; default: all that are available here."),
    ] = None,
    grid: Grid = None,
    top_k: Annotated[str, typer.Option(help="Keys asked for, such as 1,32,128.")] = "1,32,128",
    layers: Annotated[
        str | None, typer.Option(help="Layers of the capture, such as 17,18; default: all.")
    ] = None,
    queries: Annotated[int, typer.Option(min=2, help="Of a head, by which is judged.")] = 256,
    rounds: Annotated[int, typer.Option(min=2, help="All settings are timed in turn.")] = 5,
    device: Annotated[str, typer.Option(help="Where queries are: cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch and stores; default: as many as torch uses.")
    ] = None,
    seed: Annotated[int, seed_option("Of the order of timing.")] = 0,
) -> None:
    """Measure stores on a capture: what they find, and what that costs.

    Writes report.json, report.png and report.html. Stopped, the same command goes on where it was.

    Example: fotmem bench CAPTURE --stores exact,faiss-ivf
    """
    asked = _numbers(top_k)
    chosen = parse_layers(layers)
    from fotmem.measure.bench.run import Bench, Plan
    from fotmem.measure.bench.table import SHOWN, WIDTH, tables
    from fotmem.measure.capture import Capture
    from fotmem.measure.grid import read_grid, settings
    from fotmem.plugin.registry import available_stores

    capture = Capture.open(directory)
    for layer in chosen or ():
        if layer not in capture.info.layers:
            raise LayerError(f"{directory} has layers {list(capture.info.layers)}, not {layer}")
    known = available_stores()
    names = [name for name, spec in known.items() if spec.available]
    every = settings(
        names if stores is None else parse_stores(stores), read_grid(grid) if grid else None
    )
    plan = Plan(
        top_k=tuple(asked),
        queries=queries,
        rounds=rounds,
        device=device,
        threads=threads,
        seed=seed,
    )
    folder = Path(f"{directory.resolve().name}-bench") if out is None else out
    bench = Bench(capture, every, chosen or capture.info.layers, folder / REPORT, plan)
    picture, page = folder / "report.png", folder / "report.html"
    for file in (picture, page):
        check_file(file)
    with _bar() as bar, closing(bench.run()) as steps:
        task = bar.add_task("begins")
        for step in steps:
            bar.update(task, description=step.what, completed=step.done, total=step.of)
    shown = Console(width=WIDTH)
    for table in tables(bench.report):
        shown.print(table)
    explain(shown, {column.name: column.meaning for column in SHOWN} | EXPLAINED)
    print(bench.file)
    if bench.report.rows:
        from fotmem.measure.bench.page import write_page
        from fotmem.measure.bench.plot import draw

        draw(bench.report, picture)
        write_page(bench.report, page)
        print(picture, page, sep="\n")


@app.command(cls=Command)
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A folder that bench wrote.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The same, later or elsewhere.")],
) -> None:
    """Say what got better or worse from A to B, and whether that is more than noise.

    Example: fotmem bench compare before after
    """
    from fotmem.measure.bench.compare import compare
    from fotmem.measure.bench.report import BenchReport
    from fotmem.measure.bench.table import WIDTH, changes

    reports = [BenchReport.read(_report_in(path)) for path in (before, after)]
    found = compare(*reports)
    shown = Console(width=WIDTH)
    columns = [change.column for change in found.changes if change.verdict != "same"]
    if columns:
        shown.print(changes(found))
        explain(shown, COMPARED | {column.name: column.meaning for column in columns})
    for line in found.notes():
        shown.print(line, highlight=False, markup=False)


def _report_in(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a folder that fotmem bench wrote")
    return path / REPORT if path.is_dir() else path


def _bar() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=Console(file=sys.stderr))


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) for part in parts):
        raise typer.BadParameter(
            f"expected numbers such as 1,32,128, got {text!r}", param_hint="'--top-k'"
        )
    found = [*map(int, parts)]
    refuse_repeated("--top-k", found)
    return sorted(found)
