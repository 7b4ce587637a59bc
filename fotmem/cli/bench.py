"""``fotmem bench``."""

import re
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from fotmem.cli.command import Command
from fotmem.cli.legend import explain
from fotmem.cli.options import Grid, seed_option
from fotmem.cli.parsing import parse_layers, parse_stores, refuse_repeated
from fotmem.errors import InputError, LayerError, require_packages
from fotmem.outputs import check_file
from fotmem.progress import progress_told

REPORT = "report.json"
EXPLAINED = {"latency": "median latency of one query of each head, by number of tokens"}
COMPARED = {"change": "B minus A; for times the ratio of B and A"}
PACKAGES = ("matplotlib", "plotly", "psutil", "scipy")


class _RunByDefault(TyperGroup):
    """A group whose default command is `run`."""

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
    directory: Annotated[Path, typer.Argument(metavar="CAPTURE", help="Folder of the capture.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the report, new or to continue; default: CAPTURE-bench."
        ),
    ] = None,
    stores: Annotated[
        str | None,
        typer.Option(help="Stores to measure, such as exact,hnsw; default: all available ones."),
    ] = None,
    grid: Grid = None,
    top_k: Annotated[
        str, typer.Option(help="Numbers of keys to find, such as 1,32,128.")
    ] = "1,32,128",
    layers: Annotated[
        str | None, typer.Option(help="Layers of the capture, such as 17,18; default: all.")
    ] = None,
    queries: Annotated[int, typer.Option(min=2, help="Queries of each head.")] = 256,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of timing, all settings in turn.")] = 5,
    device: Annotated[str, typer.Option(help="Device of the queries: cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of torch and stores; default: as many as torch uses."),
    ] = None,
    seed: Annotated[int, seed_option("Seed of the order of timing.")] = 0,
) -> None:
    """Measure quality and cost of stores on a capture.

    It writes report.json, report.png and report.html (the interactive report). The same command
    continues a stopped run.

    Example: fotmem bench CAPTURE --stores exact,faiss-ivf
    """
    asked = _numbers(top_k)
    chosen = parse_layers(layers)
    from fotmem.measure.bench.run import Bench, Plan
    from fotmem.measure.bench.summary import ALL_KEYS
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
    with closing(bench.run()) as steps, progress_told("measuring", bench.steps, "steps") as tell:
        for step in steps:
            tell(step.done, step.what)
    shown = Console(width=WIDTH)
    for table in tables(bench.report):
        shown.print(table)
    columns = (*ALL_KEYS, *SHOWN) if bench.report.all_keys else SHOWN
    explain(shown, {column.name: column.meaning for column in columns} | EXPLAINED)
    print(bench.file)
    if bench.report.rows:
        from fotmem.measure.bench.page import write_page
        from fotmem.measure.bench.plot import draw

        draw(bench.report, picture)
        write_page(bench.report, page)
        print(picture, page, sep="\n")


@app.command(cls=Command)
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A folder with a report.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another folder with a report.")],
) -> None:
    """Show which figures got better or worse from A to B by more than noise.

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


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) for part in parts):
        raise typer.BadParameter(
            f"expected numbers such as 1,32,128, got {text!r}", param_hint="'--top-k'"
        )
    found = [*map(int, parts)]
    refuse_repeated("--top-k", found)
    return sorted(found)
