"""Shows the progress of reading."""

from collections.abc import Iterator


def with_progress(spans: list[range], progress: bool) -> Iterator[range]:
    """Yield spans of tokens, with a bar on stderr if `progress`."""
    if not progress:
        yield from spans
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
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=sum(map(len, spans)))
        for span in spans:
            yield span
            bar.advance(task, len(span))
