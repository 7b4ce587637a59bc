"""Tables of the reports of several texts: each text, the mean and the worst."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.intervals import wilson
from recipes.reports import ranged, table
from recipes.smollm2_evaluations import Evaluation

Rows = list[dict[str, Any]]
Reports = Mapping[str, Rows]
"""The rows of one text, by the names of evaluations."""


class Cell(NamedTuple):
    """A figure of a text, with its 95% interval if it has one."""

    figure: Figure
    trials: int = 0
    """Of which it is the mean score; 0: it is none of trials."""

    @classmethod
    def bare(cls, value: float) -> "Cell":
        """Make a cell without an interval."""
        return cls(Figure(value, math.nan, math.nan))


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


def perplexities(rows: Rows) -> Cells:
    """Return perplexities with windows that people use, of the untuned model and of the tuned."""
    return {
        f"{who}: {how}": Cell.bare(row["perplexity"])
        for who, evaluation in (("untuned", "perplexity-base"), ("tuned", "perplexity"))
        for row in rows
        if row["evaluation"] == evaluation and row["tokens"] in (0, 4096)
        for how in [_described(row)]
    }


def _described(row: dict[str, Any]) -> str:
    memory = f", {row['tokens']:,} in memory" if row["memory"] else ""
    return f"{row['window']:,}{', sliding' if row['sliding'] else ''}{memory}"


def cost(rows: Rows) -> Cells:
    """Return what the tuned model loses without memory that the untuned one does not, in nats."""
    untuned, tuned = (
        {
            row["window"]: math.log(row["perplexity"])
            for row in rows
            if row["evaluation"] == name and not row["memory"] and not row["sliding"]
        }
        for name in ("perplexity-base", "perplexity")
    )
    return {
        f"window {window:,}": Cell.bare(tuned[window] - untuned[window])
        for window in tuned
        if window in untuned
    }


def beside_window(rows: Rows) -> Cells:
    """Return the score with memory, with all that an answer needs in the window, and its share."""
    cells: Cells = {}
    for row in rows:
        if "with_memory" not in row or row.get("task", "needles") != "needles":
            continue
        for name, label in (("with_memory", ""), ("in_window", ", in window")):
            figure = Figure(row[name], *row[f"{name}_interval"])
            cells[f"{row['tokens']:,}{label}"] = Cell(figure, row["trials"])
        if row["share"] is not None:
            cells[f"{row['tokens']:,}, share"] = Cell.bare(row["share"])
    return cells


def ways(rows: Rows) -> Cells:
    """Return the score of each way to answer."""
    return {
        row["way"]: Cell(Figure(row["score"], *row["score_interval"]), row["questions"])
        for row in rows
        if "way" in row
    }


def cost_of_ways(rows: Rows, *, field: str, unit: float = 1) -> Cells:
    """Return what each way costs."""
    return {row["way"]: Cell.bare(row[field] / unit) for row in rows if "way" in row}


class Table(NamedTuple):
    """What a table shows."""

    title: str
    evaluations: tuple[str, ...]
    figures: Callable[[Rows], Cells]
    """Picks figures out of the rows of these evaluations, by column."""
    best: Callable[[Sequence[float]], float] = max
    """Which of several figures is the best."""


WINDOWS = (2048, 8192)
"""Tokens of a window, besides 512."""
TABLES = (
    Table("Pass key, by tokens of text", ("passkey", "passkey-long"), exact_match),
    Table("Pass key, attention to memory only", ("passkey-attention",), exact_match),
    Table("Pass key, untuned model", ("passkey-base",), exact_match),
    Table("Pass key, store `faiss-ivf`", ("passkey-ivf",), exact_match),
    *(Table(f"Pass key, window {each:,}", (f"passkey-{each}",), exact_match) for each in WINDOWS),
    Table("Pass key among ten look-alikes", ("distractors",), exact_match),
    *(
        Table(f"Facts in {wording}s{about}", (name,), partial(exact_match, kind=wording))
        for name, about in (
            ("facts", ""),
            ("facts-attention", ", attention to memory only"),
            *((f"facts-{each}", f", window {each:,}") for each in WINDOWS),
        )
        for wording in ("other wording", "trained wording")
    ),
    Table("Natural questions, by tokens of text", ("questions",), beside_window),
    Table("Natural questions, attention to memory only", ("questions-attention",), beside_window),
    Table("Natural questions, untuned model", ("questions-base",), beside_window),
    *(
        Table(f"{task}: {what}", (name,), figures, best)
        for name, task in (
            ("questions", "Natural questions"),
            ("beside", "Pass key in 16,384 tokens"),
        )
        for what, figures, best in (
            ("score of each way to answer", ways, max),
            ("seconds to the first answer", partial(cost_of_ways, field="first_seconds"), min),
            ("seconds of a further question", partial(cost_of_ways, field="further_seconds"), min),
            ("MB kept between questions", partial(cost_of_ways, field="kept_bytes", unit=1e6), min),
        )
    ),
    Table("Needles of RULER, by tokens of text", ("ruler",), beside_window),
    *(Table(f"RULER, window {each:,}", (f"ruler-{each}",), beside_window) for each in WINDOWS),
    Table(
        "Perplexity by window, alone and with memory",
        ("perplexity-base", "perplexity"),
        perplexities,
        min,
    ),
    Table(
        "Loss without memory, minus that of the untuned model (nats)",
        ("perplexity-base", "perplexity"),
        cost,
        min,
    ),
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
        text: show.figures(
            [
                row | {"evaluation": name}
                for name in show.evaluations
                for row in reports.get(name, [])
            ]
        )
        for text, reports in texts.items()
    }
    columns = list(dict.fromkeys(column for figures in found.values() for column in figures))
    if not columns:
        return ""
    body = [
        [text, *(_shown(figures[each].figure) if each in figures else "" for each in columns)]
        for text, figures in found.items()
        if figures
    ]
    of_column = [
        {text: figures[each] for text, figures in found.items() if each in figures}
        for each in columns
    ]
    body.append(["**mean**", *(_mean(figures, len(found)) for figures in of_column)])
    body.append(["**worst**", *(_worst(figures, show.best) for figures in of_column)])
    commands = {
        f"    fotmem eval {evaluation.words('LENGTH', 'TEXT', 'SEED')} --text FILE\n"
        for name, evaluation in evaluations.items()
        if name in show.evaluations and evaluation.lengths
    }
    return f"**{show.title}**\n\n{table(['text', *columns], body)}\n{''.join(sorted(commands))}"


def _mean(cells: Mapping[str, Cell], texts: int) -> str:
    """Return the mean of all texts, each with the same weight, with an interval for these texts."""
    figures = [cell.figure for cell in cells.values()]
    value = fmean(figure.value for figure in figures)
    if all(cell.trials for cell in cells.values()):
        # As many trials as a single mean with the same variance would have (Kish 1965).
        trials = len(cells) ** 2 / sum(1 / cell.trials for cell in cells.values())
        low, high = wilson(value * trials, trials)
    else:
        halves = [(figure.high - figure.low) / 2 for figure in figures]
        half = math.hypot(*halves) / len(halves)
        low, high = value - half, value + half
    shown = _shown(Figure(value, low, high))
    return shown if len(cells) == texts else f"{shown} ({len(cells)} of {texts} texts)"


def _shown(figure: Figure) -> str:
    return f"{figure.value:.2f}" if math.isnan(figure.low) else ranged(figure, 2)


def _worst(cells: Mapping[str, Cell], best: Callable[[Sequence[float]], float]) -> str:
    worst = min if best is max else max
    text = worst(cells, key=lambda text: cells[text].figure.value)
    return f"{cells[text].figure.value:.2f} ({text})"
