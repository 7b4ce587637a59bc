"""Tables of the reports of several texts: each text, the mean and the worst."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any, NamedTuple

from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.intervals import wilson
from recipes.reports import ranged, table
from recipes.smollm2_evaluations import Evaluation

Rows = list[dict[str, Any]]
Reports = Mapping[str, Rows]
"""The rows of one text, by the names of evaluations."""


class Cell(NamedTuple):
    """A figure of a text, with its 95% interval."""

    figure: Figure
    trials: int = 0
    """Of which it is the mean score; 0: it is none of trials."""


Cells = dict[str, Cell]
"""By column."""


def exact_match(rows: Rows, *, kind: str = "all") -> Cells:
    """Return the share of right answers by tokens of text, and without memory."""
    asked = [row for row in rows if "memory" in row and row.get("kind", "all") == kind]
    return {
        f"{row['tokens']:,}" if row["memory"] else "without memory": Cell(
            Figure(row["exact_match"], *row["exact_match_interval"]),
            row["facts"] if "facts" in row else row["trials"],
        )
        for row in sorted(asked, key=lambda row: (row["memory"], row["tokens"]))
    }


def saved_loss(rows: Rows, *, window: int) -> Cells:
    """Return by how many nats memory reduces the loss in a window, by tokens in memory."""
    return {
        f"{row['tokens']:,}": Cell(Figure(-row["difference"], *(-end for end in reversed(ends))))
        for row in rows
        if row["memory"] and row["window"] == window
        for ends in [row["difference_interval"]]
    }


def shares(rows: Rows, *, tokens: int) -> Cells:
    """Return the share of full attention's gain that memory recovers, by window."""
    return {
        f"{row['window']:,}": Cell(Figure(*row["share"]))
        for row in rows
        if row["tokens"] == tokens and row.get("share") is not None
    }


def beside_window(rows: Rows) -> Cells:
    """Return the score with memory, and with all that an answer needs in the window."""
    return {
        f"{row['tokens']:,}{label}": Cell(
            Figure(row[name], *row[f"{name}_interval"]), row["trials"]
        )
        for row in rows
        if row.get("task", "needles") == "needles"
        for name, label in (("with_memory", ""), ("in_window", ", in window"))
    }


def ways(rows: Rows) -> Cells:
    """Return the score of each way to answer."""
    return {
        row["way"]: Cell(Figure(row["score"], *row["score_interval"]), row["questions"])
        for row in rows
        if "way" in row
    }


class Table(NamedTuple):
    """What a table shows."""

    title: str
    evaluations: tuple[str, ...]
    figures: Callable[[Rows], Cells]
    """Picks figures out of the rows of these evaluations, by column; higher is better."""


WINDOWS = (2048, 8192)
"""Tokens of a window, besides 512."""
TABLES = (
    Table("Pass key, by tokens of text", ("passkey", "passkey-long"), exact_match),
    Table("The same, with attention to memory only", ("passkey-attention",), exact_match),
    Table("The same with the base model", ("passkey-base",), exact_match),
    Table("The same, with the store `faiss-ivf`", ("passkey-ivf",), exact_match),
    *(Table(f"The same, window {each:,}", (f"passkey-{each}",), exact_match) for each in WINDOWS),
    Table("Pass key among ten look-alikes", ("distractors",), exact_match),
    Table(
        "Facts in other wordings than trained",
        ("facts",),
        partial(exact_match, kind="other wording"),
    ),
    Table("The same facts, and as many in trained wordings", ("facts",), exact_match),
    Table("The same, with attention to memory only", ("facts-attention",), exact_match),
    *(Table(f"The same, window {each:,}", (f"facts-{each}",), exact_match) for each in WINDOWS),
    Table("Natural questions, by tokens of text", ("questions",), beside_window),
    Table("The same, with attention to memory only", ("questions-attention",), beside_window),
    Table("The same with the base model", ("questions-base",), beside_window),
    Table("The same, and what else answers them", ("questions",), ways),
    Table("Needles of RULER, by tokens of text", ("ruler", "ruler-long"), beside_window),
    *(Table(f"The same, window {each:,}", (f"ruler-{each}",), beside_window) for each in WINDOWS),
    Table("Pass key in 16,384 tokens, and what else finds it", ("beside",), ways),
    *(
        Table(
            f"Loss saved by memory (nats), window {window:,}, by tokens in memory",
            ("perplexity",),
            partial(saved_loss, window=window),
        )
        for window in (512, *WINDOWS)
    ),
    Table(
        "Share of full attention's gain with 4,096 tokens in memory, by window",
        ("perplexity",),
        partial(shares, tokens=4096),
    ),
)


def tables(
    texts: Mapping[str, Reports],
    evaluations: Mapping[str, Evaluation],
    shown: Sequence[Table] = TABLES,
) -> str:
    """Write all tables that have figures, each with its commands."""
    return "\n".join(filter(None, (_table(texts, evaluations, each) for each in shown)))


def _table(texts: Mapping[str, Reports], evaluations: Mapping[str, Evaluation], show: Table) -> str:
    found = {
        text: show.figures([row for name in show.evaluations for row in reports.get(name, [])])
        for text, reports in texts.items()
    }
    columns = list(dict.fromkeys(column for figures in found.values() for column in figures))
    if not columns:
        return ""
    body = [
        [text, *(ranged(figures[each].figure, 2) if each in figures else "" for each in columns)]
        for text, figures in found.items()
        if figures
    ]
    of_column = [
        {text: figures[each] for text, figures in found.items() if each in figures}
        for each in columns
    ]
    body.append(["**mean**", *(_mean(figures, len(found)) for figures in of_column)])
    body.append(["**worst**", *map(_worst, of_column)])
    commands = {
        f"    fotmem eval {evaluation.words('LENGTH', 'TEXT')} --text FILE\n"
        for name, evaluation in evaluations.items()
        if name in show.evaluations and evaluation.lengths
    }
    return f"**{show.title}**\n\n{table(['text', *columns], body)}\n{''.join(sorted(commands))}"


def _mean(cells: Mapping[str, Cell], texts: int) -> str:
    """Return the mean of all texts; with an interval where it is one of trials."""
    value = mean(cell.figure.value for cell in cells.values())
    shown = f"{value:.2f}"
    if trials := [cell.trials for cell in cells.values() if cell.trials]:
        shown = ranged((value, *wilson(value * sum(trials), sum(trials))), 2)
    return shown if len(cells) == texts else f"{shown} ({len(cells)} of {texts} texts)"


def _worst(cells: Mapping[str, Cell]) -> str:
    text = min(cells, key=lambda text: cells[text].figure.value)
    return f"{cells[text].figure.value:.2f} ({text})"
