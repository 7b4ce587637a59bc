"""``fotmem bench``."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fotmem.cli.options import parse_layers
from fotmem.errors import LayerError


def bench(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A capture.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the report goes, or goes on.")
    ],
    stores: Annotated[
        str | None,
        typer.Option(help="Names, such as exact,hnsw; default: all that are available here."),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Options to try, as TOML; default: the stores' own."),
    ] = None,
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
    seed: Annotated[int, typer.Option(help="Of the order of timing.")] = 0,
) -> None:
    """Measure stores on a capture: what they find, and what that costs.

    Stopped, the same command goes on where it was.

    Example: fotmem bench CAPTURE --stores exact,faiss-ivf --out DIR
    """
    asked = _numbers(top_k)
    chosen = parse_layers(layers)
    from fotmem.bench.grid import read_grid, settings
    from fotmem.bench.run import Bench, Plan
    from fotmem.bench.table import EXPLAINED, WIDTH, tables
    from fotmem.capture import Capture
    from fotmem.registry import available_stores

    capture = Capture.open(directory)
    for layer in chosen or ():
        if layer not in capture.info.layers:
            raise LayerError(f"{directory} has layers {list(capture.info.layers)}, not {layer}")
    known = available_stores()
    names = [name for name, spec in known.items() if spec.available]
    every = settings(
        names if stores is None else stores.split(","), read_grid(grid) if grid else None
    )
    plan = Plan(
        top_k=tuple(asked),
        queries=queries,
        rounds=rounds,
        device=device,
        threads=threads,
        seed=seed,
    )
    run = Bench(capture, every, chosen or capture.info.layers, out / "report.json", plan)
    console = Console(file=sys.stderr)
    with console.status("begins") as status:
        for step in run.run():
            status.update(step)
    shown = Console(width=WIDTH)
    for table in tables(run.report):
        shown.print(table)
    for name, meaning in EXPLAINED.items():
        shown.print(f"[dim]{name}: {meaning}[/dim]", highlight=False)
    print(run.file)


def _numbers(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise typer.BadParameter(
            f"expected numbers such as 1,32,128, got {text!r}", param_hint="'--top-k'"
        )
    return found
