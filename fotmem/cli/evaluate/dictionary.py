"""``fotmem eval dictionary``."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.compare import advance, show
from fotmem.cli.evaluate.task import Task, interval
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Config,
    Dtype,
    Grid,
    Json,
    Layers,
    Model,
    Report,
    StoreOption,
    StoreOrConfig,
    Stores,
    Temperature,
    TopK,
    parse_sizes,
    seed_option,
)

if TYPE_CHECKING:
    from fotmem.measure.evaluate.dictionary import DictionaryRow

QUERIES = 500
VALUES = "values right"
EXPLAINED = {
    VALUES: "share of queries of which all four symbols are right, with its 95% interval",
    "symbols right": "share of their symbols",
    "read": "how fast the dictionary is read into memory",
    "memory": "keys and values of all memory layers",
    "RAM": "what the process needs more once all is read, without pages of files",
    "a query": "mean time of one, among others in a window",
}


def dictionary(
    model: Model,
    tokens: Annotated[
        str, typer.Option(help="Lengths of dictionary, such as 64k,1M.")
    ] = "64k,256k,1M",
    queries: Annotated[
        int | None,
        typer.Option(min=1, help="How many records are queried; default: 500, or all there are."),
    ] = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    layers: Layers = None,
    top_k: TopK = "32",
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006 - typer copies it
    config: Config = None,
    stores: Stores = None,
    grid: Grid = None,
    seed: Annotated[int, seed_option("Of all records.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Put a long dictionary into memory and query records of all depths.

    MODEL is `dictionary-fot`, or one that `fotmem train-dictionary` made.

    Example: fotmem eval dictionary dictionary-fot --tokens 64k,1M
    """
    options, sizes = locals(), parse_sizes(tokens, "--tokens")
    from fotmem.tasks.dictionary import LENGTH

    queries = max(1, min(QUERIES, min(sizes) // LENGTH)) if queries is None else queries
    options["queries"] = queries
    task = Task("dictionary", options)
    from fotmem.measure.evaluate.dictionary import DictionaryRow, compare, lookup
    from fotmem.measure.evaluate.report import TaskReport

    kept = TaskReport("dictionary", task.options, DictionaryRow, report) if task.settings else None
    with task.attach() as memory:
        if kept is not None:
            steps = compare(
                task.model, memory, sizes, task.settings, kept, queries=queries, seed=seed
            )
            advance("measuring", steps, len(sizes) * len(task.settings))
            show(kept, VALUES, EXPLAINED[VALUES], _values, as_json=as_json)
            return
        measured = lookup(
            task.model,
            memory,
            sizes,
            queries=queries,
            store=task.store,
            seed=seed,
            progress=sys.stderr.isatty(),
        )
        rows = []
        for row in measured:
            rows.append(row)
            task.write(rows, report, as_json=False)  # a longer dictionary may take hours
    if task.write(rows, report, as_json=as_json):
        return
    from fotmem.measure.bench.table import WIDTH

    table = Table("tokens", VALUES, "symbols right", "read", "memory", "RAM", "a query")
    for row in rows:
        table.add_row(
            f"{row.tokens:,}",
            _values(row),
            f"{row.symbol_accuracy:.3f}",
            f"{row.tokens_per_second:,.0f} tokens/s",
            f"{row.bytes_per_token:,.0f} B/token",
            "" if row.ram is None else f"{row.ram / 2**30:.2f} GiB",
            f"{1000 * row.seconds_per_query:.1f} ms",
        )
    console = Console(width=WIDTH)
    console.print(table)
    explain(console, EXPLAINED)


def _values(row: "DictionaryRow") -> str:
    return f"{row.accuracy:.3f} ({interval(row.interval, '.3f')})"
