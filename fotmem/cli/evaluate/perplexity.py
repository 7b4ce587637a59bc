"""``fotmem eval perplexity``."""

from collections.abc import Iterator
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
    Recent,
    Report,
    StoreOption,
    StoreOrConfig,
    Stores,
    Temperature,
    TextsOrReference,
    TopK,
)
from fotmem.cli.parsing import parse_sizes
from fotmem.errors import require_packages
from fotmem.progress import tracked

if TYPE_CHECKING:
    from fotmem.measure.evaluate.bare_model import BareModel
    from fotmem.measure.evaluate.perplexity import PerplexityRow
    from fotmem.measure.evaluate.scored_text import ScoredText

DIFFERENCE = "difference (nats)"
SLIDING = "2k,8k"
EXPLAINED = {
    "window": "tokens of local context; sliding: by half a window, so that each scored token sees "
    "at least half of it",
    "perplexity": "exponential of the mean loss of a scored token: lower is better",
    DIFFERENCE: "mean loss minus that without memory, with its 95% interval: lower is better",
    "full attention": "perplexity of the same tokens without a memory, in one context with those "
    "in memory; or in as many tokens as fit",
    "share": "how much of the loss that full attention saves memory saves, with its 95% interval; "
    "over the windows for which full attention sees all that memory holds",
    "scored": "scored tokens, the same in all rows",
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
    window: Annotated[
        str, typer.Option(help="Tokens of local context, such as 512 or 512,2k.")
    ] = "512",
    sliding: Annotated[
        str | None,
        typer.Option(
            help="Windows that slide by half their length, without memory; default: 2k,8k, where "
            "the model and the text are long enough."
        ),
    ] = None,
    distance: Distance = None,
    recent: Recent = None,
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

    Beside it stand full attention to the same tokens, and windows that slide.

    Example: fotmem eval perplexity smollm2 --tokens 4k,16k --text book.txt
    """
    sizes, windows = parse_sizes(tokens, "--tokens"), parse_sizes(window, "--window")
    slides = parse_sizes(SLIDING if sliding is None else sliding, "--sliding")
    [length] = parse_sizes(scored, "--scored", one=True)
    if stores is not None and (len(windows) > 1 or sliding is not None):
        raise typer.BadParameter(
            "expected one window, and no --sliding: it compares stores", param_hint="'--stores'"
        )
    require_packages("fotmem eval perplexity", "scipy")
    from fotmem.measure.evaluate.perplexity import LEAST

    if length * places < LEAST:
        raise typer.BadParameter(
            f"expected {LEAST} tokens or more, got {length * places}", param_hint="'--scored'"
        )
    task = Task(context, window=windows[0] if len(windows) == 1 else windows)
    task.check_sizes(sizes)
    from fotmem.measure.evaluate.bare_model import BareModel
    from fotmem.measure.evaluate.scored_text import ScoredText
    from fotmem.models.tokens import token_ids

    ids = token_ids(task.tokenizer, task.text)
    made = ScoredText(ids, windows, sizes, scored=length, places=places)
    bare = BareModel(task.model, made)
    if task.settings:
        _compare(task, made, sizes, as_json=as_json)
        return
    slides = [each for each in slides if bare.checked(each, refuse=sliding is not None)]
    rows: list[PerplexityRow] = []
    steps = _measure(task, made, bare, sizes, slides, windows)
    for row in tracked("measuring", steps, len(windows) * (1 + len(sizes)) + len(slides)):
        rows.append(row)
        task.keep(rows)
    if not task.write(rows):
        _show(rows)


def _measure(
    task: Task,
    text: "ScoredText",
    bare: "BareModel",
    sizes: list[int],
    slides: list[int],
    windows: list[int],
) -> "Iterator[PerplexityRow]":
    from fotmem.measure.evaluate.perplexity import measure_perplexity, sliding_row
    from fotmem.measure.reading import overlap_of

    for window in slides:
        yield sliding_row(text, window, bare.sliding(window))
    full = {size: bare.full(size) for size in sizes}
    for window in windows:
        with task.attach(window=window) as memory:
            yield from measure_perplexity(
                task.model,
                memory,
                text,
                sizes,
                store=task.store,
                full=full,
                overlap=overlap_of(memory),
                attend=task.options["attend"],
            )


def _compare(task: Task, text: "ScoredText", sizes: list[int], *, as_json: bool) -> None:
    from fotmem.measure.evaluate.perplexity import PerplexityRow, compare
    from fotmem.measure.reading import overlap_of

    kept = task.kept(PerplexityRow)
    total = len(text.parts) * sum(len(kept.missing(size, task.settings)) for size in sizes)
    with task.attach() as memory:
        chosen: dict[str, Any] = {"overlap": overlap_of(memory), "attend": task.options["attend"]}
        steps = compare(task.model, memory, text, sizes, task.settings, kept, **chosen)
        advance("measuring", steps, total)
    show(kept, DIFFERENCE, EXPLAINED[DIFFERENCE], _difference, as_json=as_json)


def _show(rows: "list[PerplexityRow]") -> None:
    from fotmem.measure.bench.table import WIDTH

    table = Table("window", "in memory", *[name for name in EXPLAINED if name != "window"])
    for row in rows:
        share = row.share
        table.add_row(
            f"{row.window:,}{' sliding' if row.sliding else ''}",
            f"{row.tokens:,}" if row.memory else "none",
            f"{row.perplexity:.3f}",
            _difference(row),
            "" if row.full_tokens is None else f"{row.full_perplexity:.3f} of {row.full_tokens:,}",
            "" if share is None else f"{share.value:.2f} ({interval((share.low, share.high))})",
            f"{row.scored:,}",
            f"{row.seconds:.0f}",
        )
    console = Console(width=WIDTH)
    console.print(table)
    explain(console, EXPLAINED)


def _difference(row: "PerplexityRow") -> str:
    ends = interval(row.difference_interval, "+.3f")
    return f"{row.difference:+.3f} ({ends})" if row.memory else ""
