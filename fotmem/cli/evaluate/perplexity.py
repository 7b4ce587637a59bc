"""``fotmem eval perplexity``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.compare import advance, show
from fotmem.cli.evaluate.task import Task, interval
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Attend,
    Config,
    Decay,
    Distance,
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
    TextsOrReference,
    TopK,
    Window,
)
from fotmem.cli.parsing import parse_sizes
from fotmem.progress import tracked

if TYPE_CHECKING:
    from fotmem.measure.evaluate.perplexity import PerplexityRow

DIFFERENCE = "difference (nats)"
EXPLAINED = {
    "perplexity": "exponential of the mean loss of a scored token: lower is better",
    DIFFERENCE: "mean loss minus that without memory, with its 95% interval: lower is better",
    "tokens": "scored tokens",
    "seconds": "time, with reading",
}


def perplexity(
    context: typer.Context,
    model: Model,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    tokens: Annotated[str, typer.Option(help="Sizes of memory, such as 4k,16k.")] = "4k,16k",
    scored: Annotated[str, typer.Option(help="Number of tokens to score, at the end.")] = "4k",
    places: Annotated[
        int, typer.Option(min=1, help="Equal parts of the text; the end of each is scored.")
    ] = 1,
    window: Window = 512,
    distance: Distance = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    layers: Layers = None,
    top_k: TopK = "32",
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006 - typer copies it
    config: Config = None,
    stores: Stores = None,
    grid: Grid = None,
    attend: Attend = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure the perplexity of a text's end, with the text before it in memory and without.

    Example: fotmem eval perplexity smollm2 --tokens 4k,16k --text book.txt
    """
    sizes = parse_sizes(tokens, "--tokens")
    [length] = parse_sizes(scored, "--scored", one=True)
    task = Task(context)
    from fotmem.measure.evaluate.perplexity import PerplexityRow, compare, measure_perplexity
    from fotmem.measure.evaluate.report import TaskReport
    from fotmem.measure.reading import overlap_of
    from fotmem.models.tokens import token_ids

    ids = token_ids(task.tokenizer, task.text)
    kept = TaskReport("perplexity", task.options, PerplexityRow, report) if task.settings else None
    with task.attach() as memory:
        chosen: dict[str, Any] = {
            "scored": length,
            "places": places,
            "overlap": overlap_of(memory),
            "attend": attend,
        }
        if kept is not None:
            total = places * sum(len(kept.missing(size, task.settings)) for size in sizes)
            steps = compare(task.model, memory, ids, sizes, task.settings, kept, **chosen)
            advance("measuring", steps, total)
            show(kept, DIFFERENCE, EXPLAINED[DIFFERENCE], _difference, as_json=as_json)
            return
        measuring = measure_perplexity(task.model, memory, ids, sizes, store=task.store, **chosen)
        rows = list(tracked("measuring", measuring, 1 + len(sizes)))
    if task.write(rows, report, as_json=as_json):
        return
    table = Table("in memory", "perplexity", DIFFERENCE, "tokens", "seconds")
    for row in rows:
        table.add_row(
            f"{row.tokens:,}" if row.memory else "none",
            f"{row.perplexity:.3f}",
            _difference(row),
            f"{row.scored:,}",
            f"{row.seconds:.0f}",
        )
    console = Console()
    console.print(table)
    explain(console, EXPLAINED)


def _difference(row: "PerplexityRow") -> str:
    ends = interval(row.difference_interval, "+.3f")
    return f"{row.difference:+.3f} ({ends})" if row.memory else ""
