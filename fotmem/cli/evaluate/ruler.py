"""``fotmem eval ruler``."""

import math
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.arguments import PASSAGES
from fotmem.cli.evaluate.answers import ask_in_three_ways
from fotmem.cli.evaluate.beside import ask_beside, check_room, parse_beside, show_beside
from fotmem.cli.evaluate.ruler_stores import compare_stores
from fotmem.cli.evaluate.task import Task
from fotmem.cli.evaluate.window_share import COLUMNS, EXPLAINED, cells
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Attend,
    Beside,
    Config,
    Decay,
    Distance,
    Dtype,
    Grid,
    Json,
    Layers,
    Model,
    Passages,
    Recent,
    Report,
    StoreOption,
    StoreOrConfig,
    StoresOfAnswers,
    Temperature,
    TextsOrReference,
    TopK,
    Window,
    seed_option,
)
from fotmem.cli.parsing import parse_sizes, refuse_repeated

if TYPE_CHECKING:
    from fotmem.measure.evaluate.alternatives.run import Answers, WayRow
    from fotmem.measure.evaluate.ruler.rows import RulerRow
    from fotmem.measure.evaluate.ruler.sample import Sample

NAMES = {"task": "the names are those of RULER; needles: mean of all tasks that begin with niah"}


def ruler(
    context: typer.Context,
    model: Model,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    tasks: Annotated[str, typer.Option(help="Names of tasks, such as vt,qa; or all.")] = "all",
    tokens: Annotated[
        str,
        typer.Option(help="Lengths of text, question and answer together, such as 4k,16k."),
    ] = "4k",
    trials: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of trials of each task.")
    ] = 20,
    readings: Annotated[
        int | None,
        typer.Option(
            min=1, help="Texts of each task that trials share; default: one for each trial."
        ),
    ] = None,
    window: Window = 512,
    distance: Distance = None,
    recent: Recent = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    layers: Layers = None,
    top_k: TopK = "32",
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006 - typer copies it
    config: Config = None,
    stores: StoresOfAnswers = None,
    grid: Grid = None,
    passages: Passages = PASSAGES,
    attend: Attend = False,
    beside: Beside = None,
    seed: Annotated[int, seed_option("Seed of texts, depths, questions and answers.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Ask the tasks of RULER: needles, variables, words and questions in long texts.

    Each question is asked without memory, with the text in memory, and with the evidence in the
    window.

    Example: fotmem eval ruler smollm2 --tokens 4k,16k --text book.txt
    """
    sizes, names = parse_sizes(tokens, "--tokens"), _parse_tasks(tasks)
    ways = parse_beside(beside, stores)
    task = Task(context)
    task.check_sizes(sizes)
    from fotmem.measure.evaluate.alternatives.asked_texts import of_samples
    from fotmem.measure.evaluate.ruler.haystacks import Source
    from fotmem.measure.evaluate.ruler.tasks import make_samples

    source = Source(task.tokenizer, task.text)

    samples = partial(
        make_samples, source, trials=trials, seed=seed, readings=readings, window=window
    )
    sharing = math.ceil(trials / (readings or trials))
    for size, name in product(sizes, names):  # so that nothing is refused after hours
        check_room(task, ways, of_samples(samples(name, tokens=size, trials=sharing, readings=1)))
    if task.settings:
        compare_stores(task, samples, sizes, names)
    else:
        _measure(task, samples, sizes, names, ways)


def _measure(
    task: Task,
    samples: "partial[list[Sample]]",
    sizes: list[int],
    names: list[str],
    ways: list[str],
) -> None:
    """Measure one store, and other ways to answer beside it."""
    from fotmem.measure.evaluate.alternatives.asked_texts import of_samples
    from fotmem.measure.evaluate.alternatives.run import means_of
    from fotmem.measure.evaluate.ruler.rows import make_row, mean_of_needles
    from fotmem.measure.evaluate.ruler.tasks import NEEDLES

    rows: list[RulerRow] = []
    with_memory: dict[tuple[str, int], Answers] = {}
    for size in sizes:
        found: list[RulerRow] = []
        for name in names:
            texts = of_samples(samples(name, tokens=size), to_end=bool(ways))
            answers = ask_in_three_ways(task, f"{size:,} tokens, {name}, ", texts)
            with_memory[name, size] = answers.with_memory
            found.append(make_row(name, size, task.store, answers))
            task.keep([*rows, *found])
        rows += [*found, *mean_of_needles(found)]
    others: list[WayRow] = []
    for size in sizes if ways else []:
        asked: list[WayRow] = []
        for name in names:
            texts = of_samples(samples(name, tokens=size), to_end=bool(ways))
            known = with_memory[name, size]
            asked += ask_beside(task, ways, texts, known, about=name, tokens=size)
            task.keep(rows, beside=[*others, *asked])
        others += [*asked, *means_of(asked, NEEDLES, "needles")]
    if not task.write(rows, beside=others):
        _show(rows)
        show_beside(others)


def _parse_tasks(tasks: str) -> list[str]:
    from fotmem.measure.evaluate.ruler.tasks import TASKS

    names = list(TASKS) if tasks == "all" else [name.strip() for name in tasks.split(",")]
    refuse_repeated("--tasks", names)
    for name in names:
        if name not in TASKS:
            raise typer.BadParameter(
                f"expected all, or some of {', '.join(TASKS)}; got {name!r}",
                param_hint="'--tasks'",
            )
    return names


def _show(rows: "list[RulerRow]") -> None:
    table = Table("task", *COLUMNS)
    table.columns[0].no_wrap = table.columns[3].no_wrap = True
    for row in rows:
        table.add_row(row.task, *cells(row))
    console = Console()
    console.print(table)
    explain(console, NAMES | EXPLAINED)
