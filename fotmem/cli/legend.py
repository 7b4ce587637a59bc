"""Explains the columns of a table, below it."""

from collections.abc import Mapping

from rich.console import Console


def explain(console: Console, meanings: Mapping[str, str]) -> None:
    """Print a sentence for each column."""
    for name, meaning in meanings.items():
        console.print(f"[dim]{name}: {meaning}[/dim]", highlight=False)
