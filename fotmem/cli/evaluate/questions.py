"""``fotmem eval questions``."""

from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.arguments import PASSAGES
from fotmem.cli.evaluate.answers import ask_in_three_ways
from fotmem.cli.evaluate.beside import ask_beside, check_room, parse_beside, show_beside
from fotmem.cli.evaluate.task import Task, interval
from fotmem.cli.evaluate.window_share import COLUMNS, EXPLAINED, cells
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Attend,
    Beside,
    Config,
    Decay,
    Distance,
    Dtype,
    Json,
    Layers,
    Model,
    Passages,
    Recent,
    Report,
    StoreOption,
    StoreOrConfig,
    Temperature,
    TextsOrReference,
    TopK,
    Window,
    seed_option,
)
from fotmem.cli.parsing import parse_sizes

if TYPE_CHECKING:
    from fotmem.measure.evaluate.alternatives.run import Answers, WayRow
    from fotmem.measure.evaluate.questions.rows import QuestionsRow

SCORES = {
    "match": "share of answers that contain a right one",
    "F1": "mean over answers of the F1 of their words",
}


def questions(
    context: typer.Context,
    model: Model,
    questions: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Questions, answers and where they stand, as JSONL."),
    ],
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    tokens: Annotated[
        str, typer.Option(help="Lengths of the pieces of text that are read, such as 4k,16k.")
    ] = "16k",
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
    passages: Passages = PASSAGES,
    attend: Attend = False,
    beside: Beside = None,
    seed: Annotated[int, seed_option("Seed of where pieces begin.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Ask natural questions about passages of a text.

    Each question is asked without memory, with the text in memory, and with the passage in the
    window.

    Example: fotmem eval questions smollm2 --text book.txt --questions book.jsonl
    """
    sizes = parse_sizes(tokens, "--tokens")
    ways = parse_beside(beside)
    task = Task(context)
    from fotmem.measure.evaluate.alternatives.asked_texts import of_pieces
    from fotmem.measure.evaluate.questions.rows import make_row
    from fotmem.measure.evaluate.questions.text_pieces import cut

    pieces = {
        size: cut(task.tokenizer, task.text, task.questions, tokens=size, seed=seed)
        for size in sizes
    }
    texts = {size: of_pieces(task.tokenizer, pieces[size]) for size in sizes}
    for asked in texts.values():
        check_room(task, ways, asked)
    rows: list[QuestionsRow] = []
    with_memory: list[Answers] = []
    for size in sizes:
        answers = ask_in_three_ways(task, f"{size:,} tokens, ", texts[size])
        with_memory.append(answers.with_memory)
        rows.append(make_row(pieces[size], task.store, answers))
        task.keep(rows)
    others: list[WayRow] = []
    for size, row, known in zip(sizes, rows, with_memory, strict=True):
        others += ask_beside(task, ways, texts[size], known, about="questions", tokens=row.tokens)
        task.keep(rows, beside=others)
    if not task.write(rows, beside=others):
        _show(rows)
        show_beside(others)


def _show(rows: "list[QuestionsRow]") -> None:
    table = Table("score", *COLUMNS)
    for row in rows:
        share = "" if row.share_interval is None else f" ({interval(row.share_interval)})"
        *figures, last = cells(row)
        table.add_row("match", *figures, last + share)
        table.add_row("F1", f"{row.tokens:,}", *(f"{each:.2f}" for each in astuple(row.f1)), "")
    console = Console()
    console.print(table)
    explain(console, SCORES | EXPLAINED)
