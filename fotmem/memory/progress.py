"""Shows the progress of reading, and of opening."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def with_progress(spans: list[range], progress: bool) -> Iterator[range]:
    """Yield spans of tokens, with a bar on stderr if `progress`."""
    done = 0
    with progress_bar("reading", sum(map(len, spans)), progress) as tell:
        for span in spans:
            yield span
            done += len(span)
            tell(done)


@contextmanager
def progress_bar(doing: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the number of tokens done; with a bar on stderr if `shown`.

    Parameters
    ----------
    doing : str
        What stands before the bar.
    total : int
        Tokens.
    shown : bool
    """
    if not shown:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done: bar.update(task, completed=max(done, bar.tasks[0].completed))
