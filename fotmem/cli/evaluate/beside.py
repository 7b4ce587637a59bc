"""Asks what was asked with memory in other ways, too, and shows what each reaches and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.answers import ask
from fotmem.cli.evaluate.task import Task, interval
from fotmem.cli.legend import explain
from fotmem.cli.parsing import refuse_repeated

if TYPE_CHECKING:
    from fotmem.measure.evaluate.alternatives.run import Answers, WayRow
    from fotmem.measure.evaluate.alternatives.way import AskedText

MEMORY = "memory"
"""The way that fotmem is."""
EXPLAINED = {
    "score": "mean over all questions, with its 95% interval",
    "first answer": "time from an unread text to the first answer: median over texts",
    "further": "time of a question about a text that was read: median",
    "kept": "bytes kept between two questions: keys and values, or an index",
}


def parse_beside(given: str | None, stores: str | None = None) -> list[str]:
    """Parse and check ``"window,bm25"``; nothing gives no names. `stores` is the option's value."""
    if given is None:
        return []
    if stores is not None:
        raise typer.BadParameter("expected one store, got --stores", param_hint="'--beside'")
    from fotmem.measure.evaluate.alternatives.names import check_names

    names = [name.strip() for name in given.split(",")]
    refuse_repeated("--beside", names)
    check_names(names)
    return names


def check_room(task: Task, names: Sequence[str], texts: Sequence[AskedText]) -> None:
    """Refuse a window that has no room for text beside the questions.

    Raises
    ------
    InputError
        There is no room.
    """
    from fotmem.measure.evaluate.alternatives.names import make_ways

    rooms = [question.room for each in texts for question in each.questions]
    for way in make_ways(names, task.model, task.tokenizer, task.options["window"]).values():
        way.text_room(max(rooms))


def ask_beside(
    task: Task,
    names: Sequence[str],
    texts: Sequence[AskedText],
    with_memory: Answers,
    *,
    about: str,
    tokens: int,
) -> list[WayRow]:
    """Ask in each of the ways named; the answers that were given with memory come first.

    `about` is the kind of question. Without names nothing is asked.
    """
    from fotmem.measure.evaluate.alternatives.names import make_ways
    from fotmem.measure.evaluate.alternatives.run import way_row

    if not names:
        return []
    ways = make_ways(names, task.model, task.tokenizer, task.options["window"])
    answers = {MEMORY: with_memory} | {
        name: ask(f"{tokens:,} tokens, {about}, {name}", way, texts) for name, way in ways.items()
    }
    return [way_row(name, each, task=about, tokens=tokens) for name, each in answers.items()]


def show_beside(rows: Sequence[WayRow]) -> None:
    """Print a table of all ways, if there are any."""
    if not rows:
        return
    from fotmem.measure.bench.table import WIDTH
    from fotmem.measure.evaluate.alternatives.names import MEANINGS

    table = Table("task", "tokens", "way", *EXPLAINED)
    for row in rows:
        table.add_row(
            row.task,
            f"{row.tokens:,}",
            row.way,
            f"{row.score:.2f} ({interval(row.score_interval)})",
            f"{row.first_seconds:.1f} s",
            f"{row.further_seconds:.2f} s",
            f"{row.kept_bytes / 2**20:,.2f} MiB",
        )
    console = Console(width=WIDTH)
    console.print(table)
    shown = {row.way for row in rows}
    ways = {MEMORY: "with fotmem"} | {name: MEANINGS[name] for name in MEANINGS if name in shown}
    explain(console, ways | EXPLAINED)
