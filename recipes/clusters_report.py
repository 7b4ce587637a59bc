"""Measures the store `clusters`, and fills in `docs/benchmarks/clusters.md`.

Run by ``make bench-clusters TEXTS="a.txt b.txt c.txt"``, with texts of a megabyte or more of three
kinds. Two models read them first, which takes a quarter of an hour for each text; then it takes
ten minutes. A second run continues a stopped one: what is in ``build/clusters/rows-full`` is not
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
from benchmarks.clusters.captures import Layer, captured, queries_of, rows_of, several_texts
from benchmarks.clusters.errors import filled, layer_errors
from benchmarks.clusters.plan import FULL, QUICK, TIMED, Plan
from benchmarks.clusters.rivals import layer_rivals
from benchmarks.clusters.sizes import times
from fotmem.files import python_reference
from fotmem.measure.capture import Capture
from fotmem.measure.evaluate.report import write_report
from fotmem.measure.machine import describe_machine, versions
from recipes.clusters_picture import draw
from recipes.clusters_tables import Rows, tables
from recipes.reports import fill
from recipes.stopping import run_recipe

PAGE, PICTURE = Path("docs/benchmarks/clusters.md"), Path("docs/benchmarks/clusters.png")
REPORT = Path("docs/benchmarks/clusters.json")
BUILD = Path("build/clusters")
MARKER = "<!-- figures, by make bench-clusters -->\n"
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
    """Name everything that is measured, what matters most first."""

    @cache
    def capture(model: str, text: Path) -> Capture:
        return captured(model, text, plan, folder)

    def of_all(measure: Callable[[list[Capture]], Rows]) -> Rows:
        return measure([capture(plan.models[0], text) for text in texts])

    def of_layers(models: tuple[str, ...], *, in_turn: bool, rivals: bool) -> Iterator[Unit]:
        """Name layers of models: of one text each, in turn, or of all others."""
        for model in models:
            for place, layer in enumerate(plan.layers):
                one = texts[(place + plan.models.index(model)) % len(texts)]
                for text in texts:
                    if (text == one) == in_turn:
                        taken = partial(capture, model, text)
                        about = {"model": model, "text": text.stem, "layer": layer}
                        measure = partial(_of_layer, plan, taken, about, rivals)
                        yield Unit(f"{model}-{text.stem}-{layer:02d}", measure)

    layers = [layer for layer in ADDED if layer in plan.layers] or [*plan.layers]
    first, *others = plan.models
    yield from of_layers((first,), in_turn=True, rivals=True)
    for number in TIMED:
        yield Unit(f"times-{number}", partial(of_all, partial(_times, plan, number)))
    yield Unit("adding", lambda: of_all(lambda every: adding(every[:1], (layers * 3)[:3])))
    yield Unit("ram", lambda: of_all(lambda every: ram(every, TIMED[-1])))
    yield from of_layers((*others,), in_turn=True, rivals=False)
    yield from of_layers(plan.models, in_turn=False, rivals=False)


def _times(plan: Plan, layer: int, captures: list[Capture]) -> Rows:
    rows = several_texts(captures, layer)
    queries = queries_of(captures[0], layer, captures[0].info.queries)
    about = {"layer": layer, "captured": rows.keys.shape[1]}
    return [row | about for row in times(rows, queries, captures[0].info.scale, plan)]


def _of_layer(
    plan: Plan, taken: Callable[[], Capture], about: dict[str, Any], with_rivals: bool
) -> Rows:
    """Measure the errors in a layer, and those of other stores."""
    capture, number = taken(), about["layer"]
    rows, queries = rows_of(capture, number), queries_of(capture, number, plan.queries)
    layer = Layer(f"{capture.directory.name}-{number}", rows, queries, capture.info.scale)
    about |= {"tokens": rows.keys.shape[1]}
    found: Rows = []
    with filled(rows) as store:
        if with_rivals:
            compared = layer_rivals(store, layer, plan.rounds, BUILD / "indexes")
            found = [{"kind": "rivals", **about, **compared}]
        settings = layer_errors(store, layer, plan.share)
    return [{"kind": "errors", **about, "settings": settings}, *found]


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
    run_recipe(lambda: typer.run(main))
