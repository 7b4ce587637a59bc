"""Measures the store `clusters`, and fills in `docs/benchmarks/clusters.md`.

Run by ``make bench-clusters TEXTS="a.txt b.txt c.txt"``, with texts of a megabyte or more of three
kinds. Two models read them first, which takes a quarter of an hour for each text; then it takes
half an hour. A second run continues a stopped one: what is in ``build/clusters/rows-full`` is not
measured again, so delete that folder when the store has changed. ``--quick`` measures little, in
two minutes, and prints the tables.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.clusters.adding import adding, ram
from benchmarks.clusters.captures import captured, queries_of, several_texts
from benchmarks.clusters.errors import layer_errors
from benchmarks.clusters.plan import FULL, QUICK, Plan
from benchmarks.clusters.rivals import layer_rivals
from benchmarks.clusters.sizes import times
from fotmem.files import python_reference
from fotmem.measure.capture import Capture
from fotmem.measure.evaluate.report import write_report
from fotmem.measure.machine import describe_machine, versions
from recipes.clusters_picture import draw
from recipes.clusters_tables import Rows, tables
from recipes.reports import fill

PAGE, PICTURE = Path("docs/benchmarks/clusters.md"), Path("docs/benchmarks/clusters.png")
REPORT = Path("docs/benchmarks/clusters.json")
BUILD = Path("build/clusters")
MARKER = "<!-- figures, by make bench-clusters -->\n"
TIMED = 20
"""The memory layer whose times are measured."""
ADDED = (17, 18, 20)
"""Layers whose heads are side by side when adding is timed."""


class Unit(NamedTuple):
    """Something that is measured at once, and not again."""

    name: str
    measure: Callable[[], Rows]


def main(
    texts: Annotated[list[Path] | None, typer.Argument(help="Three kinds of text.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure little, and print it.")] = False,
    captures: Annotated[Path, typer.Option(help="Folder of captures.")] = BUILD / "captures",
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Write what is measured so far.")
    ] = False,
) -> None:
    """Measure everything that is missing; draw, and fill in the page."""
    torch.set_num_threads(1)
    plan = QUICK if quick else FULL
    if not texts and not quick:
        raise typer.BadParameter('give make TEXTS="a.txt b.txt c.txt"')
    every = units(plan, texts or [reference()], captures)
    rows = measured(every, BUILD / f"rows-{plan.name}", only_known=so_far)
    if quick:
        print(tables(rows, plan))
        return
    write_report(REPORT, {"machine": describe_machine() | versions(), "rows": rows})
    publish(json.loads(REPORT.read_text()), plan)


def reference() -> Path:
    """Return a text to try with: Python's language reference."""
    file = BUILD / "reference.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(python_reference(), encoding="utf-8")
    return file


def units(plan: Plan, texts: list[Path], folder: Path) -> Iterator[Unit]:
    """Name everything that is measured."""

    @cache
    def capture(model: str, text: Path) -> Capture:
        return captured(model, text, plan, folder)

    def of_all(measure: Callable[[list[Capture]], Rows]) -> Rows:
        return measure([capture(plan.models[0], text) for text in texts])

    layers = [layer for layer in ADDED if layer in plan.layers] or [*plan.layers]
    yield Unit("times", lambda: of_all(partial(_times, plan)))
    yield Unit("adding", lambda: of_all(lambda every: adding(every, (layers * 3)[:3])))
    yield Unit("ram", lambda: of_all(lambda every: ram(every, TIMED)))
    for at, model in enumerate(plan.models):
        for kind in ("errors", "rivals"):
            for place, layer in enumerate(plan.layers):
                one = texts[(place + at) % len(texts)]
                for text in texts if kind == "errors" else [one]:
                    name = f"{kind}-{model}-{text.stem}-{layer:02d}"
                    measure = partial(_of_layer, kind, plan, partial(capture, model, text), layer)
                    yield Unit(name, partial(_named, model, text.stem, measure))


def _times(plan: Plan, captures: list[Capture]) -> Rows:
    rows = several_texts(captures, TIMED)
    queries = queries_of(captures[0], TIMED, captures[0].info.queries)
    real = {"captured": rows.keys.shape[1]}
    return [row | real for row in times(rows, queries, captures[0].info.scale, plan)]


def _of_layer(kind: str, plan: Plan, capture: Callable[[], Capture], layer: int) -> dict[str, Any]:
    if kind == "errors":
        return layer_errors(capture(), layer, plan)
    return layer_rivals(capture(), layer, plan, BUILD / "indexes")


def _named(model: str, text: str, measure: Callable[[], dict[str, Any]]) -> Rows:
    row = measure()
    kind = "rivals" if "rivals" in row else "errors"
    return [{"kind": kind, "model": model, "text": text, **row}]


def measured(every: Iterator[Unit], folder: Path, *, only_known: bool = False) -> Rows:
    """Return the rows of all units; measure those that have no file, or leave them out."""
    rows: Rows = []
    for unit in every:
        file = folder / f"{unit.name}.json"
        if only_known and not file.exists():
            continue
        if not file.exists():
            print(unit.name, flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_report(file, {"rows": unit.measure()})
        rows += json.loads(file.read_text())["rows"]
    return rows


def publish(report: dict[str, Any], plan: Plan) -> None:
    """Draw, and put the tables into the page."""
    draw(report["rows"], PICTURE)
    machine = "; ".join(f"{what} {told}" for what, told in report["machine"].items() if told)
    picture = f"![errors and times of clusters]({PICTURE.name})"
    fill(PAGE, MARKER, f"{tables(report['rows'], plan)}\n{picture}\n\nMeasured on {machine}.\n")


if __name__ == "__main__":
    typer.run(main)
