"""Tables of the reports of several texts: each text, the mean and the worst."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from fotmem.measure.bench.figures import Figure
from fotmem.measure.evaluate.intervals import half_interval, ratio_interval, wilson
from recipes.reports import ranged, table
from recipes.smollm2_evaluations import Evaluation

Rows = list[dict[str, Any]]
Reports = Mapping[str, Rows]
"""The rows of one text, by the names of evaluations."""


class Pair(NamedTuple):
    """Two mean scores of the same trials, whose ratio is a figure."""

    above: float
    below: float
    apart: float
    """Mean absolute difference of the scores of a trial."""


class Cell(NamedTuple):
    """A figure of a text, with its 95% interval if it has one."""

    figure: Figure
    trials: int = 0
    """Of which it is the mean score; 0: it is none of trials."""
    pair: Pair | None = None
    """The scores, if it is their ratio."""

    @classmethod
    def bare(cls, value: float) -> "Cell":
        """Make a cell without an interval."""
        return cls(Figure(value, math.nan, math.nan))


UNKNOWN = Figure(math.nan, math.nan, math.nan)
EMPTY = Cell(UNKNOWN)
Cells = dict[str, Cell]
"""By column."""


def exact_match(rows: Rows, *, kind: str = "all") -> Cells:
    """Return the share of right answers by tokens of text, and without memory."""
    asked = [row for row in rows if "memory" in row and row.get("kind", "all") == kind]
    without = [row for row in asked if not row["memory"]]
    return ({"without memory": _pooled(without)} if without else {}) | {
        f"{row['tokens']:,}": Cell(
            Figure(row["exact_match"], *row["exact_match_interval"]), _asked(row)
        )
        for row in sorted(asked, key=lambda row: row["tokens"])
        if row["memory"]
    }


def _pooled(rows: Rows) -> Cell:
    """Return the share of right answers in all trials, as without memory no length matters."""
    trials = sum(map(_asked, rows))
    right = sum(row["exact_match"] * _asked(row) for row in rows)
    return Cell(Figure(right / trials, *wilson(right, trials)), trials)


def _asked(row: dict[str, Any]) -> int:
    return int(row["facts"] if "facts" in row else row["trials"])


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
            row["window"]: row
            for row in rows
            if row["evaluation"] == name and not row["memory"] and not row["sliding"]
        }
        for name in ("perplexity-base", "perplexity")
    )
    return {
        f"window {window:,}": _rise(untuned[window], tuned[window])
        for window in tuned
        if window in untuned
    }


def steps(rows: Rows) -> Cells:
    """Return how much more is lost with more tokens in memory, in nats: negative where it helps."""
    held = sorted((row for row in rows if row["memory"]), key=lambda row: row["tokens"])
    return {
        f"{more['tokens']:,} instead of {less['tokens']:,}": _rise(less, more)
        for less, more in pairwise(held)
    }


def _rise(before: dict[str, Any], after: dict[str, Any]) -> Cell:
    """Return by how much the loss rises from one row to another, block by block."""
    pairs = zip(before["block_losses"], after["block_losses"], strict=True)
    rises = [late - early for early, late in pairs]
    value, half = fmean(rises), half_interval(rises)
    return Cell(Figure(value, value - half, value + half))


def beside_window(rows: Rows, *, others: bool = False) -> Cells:
    """Return the score with memory, with all that an answer needs in the window, and its share.

    Of RULER's tasks the mean of the needles, or each of the `others`.
    """
    cells: Cells = {}
    for row in rows:
        task = row.get("task", "needles")
        if "with_memory" not in row or others is (task == "needles"):
            continue
        about = f"{task}, {row['tokens']:,}" if others else f"{row['tokens']:,}"
        for name, label in (("with_memory", ""), ("in_window", ", in window")):
            figure = Figure(row[name], *row[f"{name}_interval"])
            cells[f"{about}{label}"] = Cell(figure, row["trials"])
        share = UNKNOWN if row["share"] is None else Figure(row["share"], *row["share_interval"])
        pair = Pair(row["with_memory"], row["in_window"], row["apart"])
        cells[f"{about}, share"] = Cell(share, row["trials"], pair)
    return cells


def ways(rows: Rows) -> Cells:
    """Return the score of each way to answer."""
    return {
        row["way"]: Cell(Figure(row["score"], *row["score_interval"]), row["questions"])
        for row in rows
        if "way" in row
    }


def instead(rows: Rows) -> Cells:
    """Return the score of each way to answer, by tokens; of RULER the mean of the needles."""
    return {
        f"{row['way']}, {row['tokens']:,}": Cell(
            Figure(row["score"], *row["score_interval"]), row["questions"]
        )
        for row in rows
        if "way" in row and not row["task"].startswith("niah")
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
    digits: int = 2
    """After the point."""


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
    *(
        Table(f"{task}, and what you would do instead, by tokens of text", (name,), instead)
        for name, task in (
            ("distractors", "Pass key among ten look-alikes"),
            ("passkey-2048", "Pass key, window 2,048"),
            ("facts", "Facts in all wordings"),
            ("facts-2048", "Facts in all wordings, window 2,048"),
            ("facts-8192", "Facts in all wordings, window 8,192"),
            ("ruler", "Needles of RULER"),
        )
    ),
    Table("Needles of RULER, by tokens of text", ("ruler",), beside_window),
    Table(
        "Other tasks of RULER, window 1,024", ("ruler-others",), partial(beside_window, others=True)
    ),
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
    Table(
        "Loss saved by memory (nats), window 512, by tokens in memory",
        ("perplexity-steps",),
        partial(saved_loss, window=512),
    ),
    Table(
        "Loss with more tokens in memory, minus that with fewer (nats), window 512",
        ("perplexity-steps",),
        steps,
        min,
        digits=3,
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
        [
            text,
            *(_shown(figures.get(each, EMPTY).figure, show.digits) for each in columns),
        ]
        for text, figures in found.items()
        if figures
    ]
    of_column = [
        {text: figures[each] for text, figures in found.items() if each in figures}
        for each in columns
    ]
    means = (_mean(figures, len(found), show.digits) for figures in of_column)
    body.append(["**mean**", *means])
    body.append(["**worst**", *(_worst(figures, show) for figures in of_column)])
    commands = {
        f"    fotmem eval {evaluation.words('LENGTH', 'TEXT', 'SEED')} --text FILE\n"
        for name, evaluation in evaluations.items()
        if name in show.evaluations and any(reports.get(name) for reports in texts.values())
    }
    return f"**{show.title}**\n\n{table(['text', *columns], body)}\n{''.join(sorted(commands))}"


def _mean(cells: Mapping[str, Cell], texts: int, digits: int) -> str:
    """Return the mean of all texts, each with the same weight, with an interval for these texts."""
    some = list(cells.values())
    if any(cell.pair for cell in some):
        figure = _mean_ratio(some)
    elif all(cell.trials for cell in some):
        value = fmean(cell.figure.value for cell in some)
        figure = Figure(value, *wilson(value * _trials(some), _trials(some)))
    else:
        value = fmean(cell.figure.value for cell in some)
        below, above = (
            math.hypot(*distances) / len(some)
            for distances in (
                [figure.value - figure.low for figure, *_ in some],
                [figure.high - figure.value for figure, *_ in some],
            )
        )
        figure = Figure(value, value - below, value + above)
    shown = _shown(figure, digits)
    return shown if len(cells) == texts else f"{shown} ({len(cells)} of {texts} texts)"


def _mean_ratio(cells: Sequence[Cell]) -> Figure:
    """Return the ratio of the means of both scores."""
    pairs = [cell.pair for cell in cells if cell.pair]
    above, below, apart = map(fmean, zip(*pairs, strict=True))
    interval = ratio_interval(*(mean * _trials(cells) for mean in (above, below, apart)))
    return Figure(above / below, *interval) if interval else UNKNOWN


def _trials(cells: Sequence[Cell]) -> float:
    """Return of how many trials a single mean has the same variance (Kish 1965)."""
    return len(cells) ** 2 / sum(1 / cell.trials for cell in cells)


def _shown(figure: Figure, digits: int) -> str:
    if math.isnan(figure.value):
        return ""
    if math.isnan(figure.low):
        return f"{figure.value:.{digits}f}"
    return ranged(figure, digits)


def _worst(cells: Mapping[str, Cell], show: Table) -> str:
    worst = min if show.best is max else max
    known = [text for text, cell in cells.items() if not math.isnan(cell.figure.value)]
    if not known:
        return ""
    text = worst(known, key=lambda text: cells[text].figure.value)
    return f"{cells[text].figure.value:.{show.digits}f} ({text})"
