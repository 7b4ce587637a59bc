"""Shows the progress and the results of several settings of stores in one task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fotmem.cli.legend import explain
from fotmem.progress import progress_told

if TYPE_CHECKING:
    from fotmem.measure.evaluate.report import TaskReport


def advance(label: str, steps: Iterable[int], total: int) -> None:
    """Take all steps and show the progress; each step advances it by its value."""
    done = 0
    with progress_told(label, total) as tell:
        for count in steps:
            done += count
            tell(done)


def show(
    measured: TaskReport[Any],
    name: str,
    meaning: str,
    quality: Callable[[Any], str],
    *,
    as_json: bool,
    tasks: bool = False,
) -> None:
    """Print the results: a table with the quality of the answers, or JSON.

    `tasks` says whether the evaluation has several tasks.
    """
    if as_json:
        print(json.dumps(measured.as_dict(), indent=2))
        return
    from fotmem.measure.bench.table import WIDTH
    from fotmem.measure.evaluate.store_quality import FIGURES
    from fotmem.measure.setting import Setting

    headings = (about.name for about in FIGURES.values())
    task = ["task"] if tasks else []
    console, table = Console(width=WIDTH), Table(*task, "tokens", "store", name, *headings)
    for row in sorted(measured.rows, key=lambda row: row.tokens):
        store = "none" if row.store is None else Setting(store=row.store, options=row.options)
        figures = [""] * len(FIGURES)
        if row.store_quality is not None:
            figures = [f"{getattr(row.store_quality, each).value:.3f}" for each in FIGURES]
        about = [row.task] if tasks else []
        table.add_row(*about, f"{row.tokens:,}", escape(str(store)), quality(row), *figures)
    console.print(table)
    if measured.failures:
        table = Table(*task, "not measured", "tokens", "reason")
        for failed in measured.failures:
            setting = Setting(store=failed.store, options=failed.options)
            about = [f"{failed.task}"] if tasks else []
            table.add_row(*about, escape(str(setting)), f"{failed.tokens:,}", escape(failed.reason))
        console.print(table)
    meanings = {about.name: about.meaning for about in FIGURES.values()}
    explain(console, {name: meaning} | meanings)
