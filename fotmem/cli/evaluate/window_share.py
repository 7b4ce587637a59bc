"""Columns that compare scores with memory and with the evidence in the window."""

from typing import TYPE_CHECKING

from fotmem.cli.evaluate.task import interval

if TYPE_CHECKING:
    from fotmem.measure.evaluate.window_share import WindowShare

COLUMNS = ("tokens", "without memory", "with memory", "in window", "share")
EXPLAINED = {
    "without memory": "mean score of all trials of a model that does not know the text",
    "with memory": "score with the text in memory, with its 95% interval",
    "in window": "score without memory, with all that the answer needs in front of the question",
    "share": "score with memory, divided by that in window",
}


def cells(row: "WindowShare") -> list[str]:
    """Format the figures of a row."""
    return [
        f"{row.tokens:,}",
        f"{row.without_memory:.2f}",
        f"{row.with_memory:.2f} ({interval(row.with_memory_interval)})",
        f"{row.in_window:.2f}",
        "" if row.share is None else f"{row.share:.2f}",
    ]
