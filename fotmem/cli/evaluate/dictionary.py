"""``fotmem eval dictionary``."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.compare import advance, show
from fotmem.cli.evaluate.task import EXACT_MATCH, Task, interval
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Config,
    Dtype,
    Grid,
    Json,
    Layers,
    Report,
    StoreOption,
    StoreOrConfig,
    Stores,
    Temperature,
    TopK,
    seed_option,
)
from fotmem.cli.parsing import parse_sizes

if TYPE_CHECKING:
    from fotmem.measure.evaluate.dictionary import DictionaryRow

QUERIES = 500
EXPLAINED = {
    EXACT_MATCH: "share of queries whose four symbols are all correct, with its 95% interval",
    "symbols": "share of correct symbols",
    "throughput": "tokens per second read into memory",
    "memory": "bytes of keys and values, all memory layers",
    "RAM": "bytes that the process has gained by reading, without pages of files",
    "latency": "mean time of a query, many of them in a window",
}


def dictionary(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder that [bold]fotmem train-dictionary[/bold] wrote, or "
            "[bold]dictionary-fot[/bold], which ships with fotmem.",
        ),
    ],
    tokens: Annotated[
        str, typer.Option(help="Lengths of the dictionary, such as 64k,1M.")
    ] = "64k,256k,1M",
    queries: Annotated[
        int | None,
        typer.Option(min=1, help="Number of queries; default: 500, or one for each record."),
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
    seed: Annotated[int, seed_option("Seed of all records.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Read a long dictionary into memory and query records at all depths.

    Example: fotmem eval dictionary dictionary-fot --tokens 64k,1M
    """
    sizes = parse_sizes(tokens, "--tokens")
    from fotmem.tasks.dictionary import LENGTH

    queries = max(1, min(QUERIES, min(sizes) // LENGTH)) if queries is None else queries
    task = Task(context, queries=queries)
    task.check_sizes(sizes)
    from fotmem.measure.evaluate.dictionary import DictionaryRow, compare, measure_dictionary

    kept = task.kept(DictionaryRow) if task.settings else None
    with task.attach() as memory:
        if kept is not None:
            steps = compare(
                task.model, memory, sizes, task.settings, kept, queries=queries, seed=seed
            )
            advance("measuring", steps, len(sizes) * len(task.settings))
            show(kept, EXACT_MATCH, EXPLAINED[EXACT_MATCH], _exact_match, as_json=as_json)
            return
        measured = measure_dictionary(
            task.model,
            memory,
            sizes,
            queries=queries,
            store=task.store,
            seed=seed,
            progress=True,
        )
        rows = []
        for row in measured:
            rows.append(row)
            task.keep(rows)
    if task.write(rows):
        return
    from fotmem.measure.bench.table import WIDTH

    table = Table("tokens", *EXPLAINED)
    for row in rows:
        table.add_row(
            f"{row.tokens:,}",
            _exact_match(row),
            f"{row.symbol_accuracy:.3f}",
            f"{row.tokens_per_second:,.0f} tokens/s",
            f"{row.bytes_per_token:,.0f} B/token",
            "" if row.ram is None else f"{row.ram / 2**30:.2f} GiB",
            f"{1000 * row.seconds_per_query:.1f} ms",
        )
    console = Console(width=WIDTH)
    console.print(table)
    explain(console, EXPLAINED)


def _exact_match(row: "DictionaryRow") -> str:
    return f"{row.exact_match:.3f} ({interval(row.exact_match_interval, '.3f')})"
