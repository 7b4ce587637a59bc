"""``fotmem select``."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fotmem.amounts import seconds, size_in_bytes
from fotmem.cli.legend import explain
from fotmem.cli.loading import quietly, read_texts
from fotmem.cli.options import Distance, Json, Layers, Model, TextsOrReference, Window
from fotmem.cli.parsing import (
    check_amount,
    parse_layers,
    parse_sizes,
    parse_stores,
    parse_top_k,
)
from fotmem.outputs import check_file
from fotmem.progress import progress_told

if TYPE_CHECKING:
    from fotmem.measure.select.choice import Selection

WIDTH = 120
EXPLAINED = {
    "RAM, disk": "bytes of all memory layers together",
    "latency": "time that memory adds to decoding a token, in all memory layers",
}
KEPT = {
    "RAM": "of an open memory, without what the store looks up in the memory's directory",
    "disk": "size of the memory's directory: keys, values and the index",
}
QUALITY = {"excess error": "error", "recall": "recall"}
"""Columns that are also columns of a benchmark, and their figures."""
ALL_KEYS_QUALITY = {"error": "error", "estimated error": "estimated_error"}
"""Those of attention to all keys."""
ALL_KEYS_FROM = 65_536
"""Tokens from which on a store that estimates attends to all keys faster than `exact` does."""
NOTHING_FITS = 3
"""Exit code if no store keeps all limits."""


def select(
    model: Model,
    tokens: Annotated[str, typer.Option(help="Tokens in memory, such as 1M.")],
    ram: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Most RAM of all memory layers, such as 4GiB."),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Most disk space of all memory layers, such as 20GiB."),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Most time added to a decoding step, such as 20ms."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Largest excess error of the attention output; with all, error."
        ),
    ] = None,
    min_recall: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Smallest recall: share of the exact top k that is found."),
    ] = None,
    persistent: Annotated[
        bool,
        typer.Option(
            "--persistent",
            help="Require a memory that outlives the process, as fotmem read keeps it.",
        ),
    ] = False,
    top_k: Annotated[
        str, typer.Option(help="Hits per query and head; all: attention to all keys.")
    ] = "32",
    layers: Layers = None,
    window: Window = 512,
    distance: Distance = None,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    stores: Annotated[
        str | None, typer.Option(help="Stores to choose from, such as exact,hnsw; default: all.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of the model: cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch and stores.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File for the choice.")] = Path(
        "fotmem.toml"
    ),
    as_json: Json = False,
) -> None:
    """Choose a store for a model, a number of tokens, and limits, by measuring on this machine.

    Without --max-error and --min-recall, the limit of the excess error is 0.05.

    Example: fotmem select smollm2-fot --tokens 1M --ram 16GiB --latency 50ms
    """
    [size] = parse_sizes(tokens, "--tokens", one=True)
    check_amount("--ram", ram, size_in_bytes)
    check_amount("--disk", disk, size_in_bytes)
    check_amount("--latency", latency, seconds)
    check_file(out, inputs=[model, *text])
    hits = parse_top_k(top_k)
    chosen, corpus = parse_layers(layers), read_texts(text)
    from fotmem.measure.select.selector import select as selected

    with progress_told("selecting", None) as tell, quietly():
        found = selected(
            model,
            tokens=size,
            ram=ram,
            disk=disk,
            latency=latency,
            max_error=max_error,
            min_recall=min_recall,
            persistent=persistent,
            top_k=hits,
            layers=chosen,
            window=window,
            distance=distance,
            text=corpus,
            stores=None if stores is None else parse_stores(stores),
            device=device,
            threads=threads,
            step=lambda what: tell(0, what),
        )
    choice = found.choice
    if choice is not None:
        found.write(out)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _show(found)
        if choice is not None:
            print(out)
            reading = {"layers": layers, "window": window, "distance": distance}
            print("next:", _next_commands(model, out, persistent, **reading))
    if choice is None:
        raise typer.Exit(NOTHING_FITS)


def _next_commands(model: str, config: Path, kept: bool, **given: object) -> str:
    """Return the commands that use the choice; `given` are options of the reading."""
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    if not kept:
        words = ["ask", model, "QUESTION", "--text=FILE", *options, f"--config={config}"]
        return shlex.join(["fotmem", *words])
    read = ["fotmem", "read", model, "FILE", "--into=DIR", *options]
    ask = ["fotmem", "ask", "DIR", "QUESTION", f"--config={config}"]
    return f"{shlex.join(read)} && {shlex.join(ask)}"


def _show(found: "Selection") -> None:
    from fotmem.measure.bench.summary import ALL_KEYS, COLUMNS
    from fotmem.measure.select.limits import in_bytes, in_ms

    layers = ", ".join(map(str, found.layers))
    quality = ALL_KEYS_QUALITY if found.top_k is None else QUALITY
    hits = "all keys" if found.top_k is None else f"top {found.top_k}"
    table = Table(title=f"predicted for {found.tokens:,} tokens, layers {layers}, {hits}")
    table.add_column("store", no_wrap=True)
    for name in ("RAM", "disk", "latency", *quality):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for candidate in found.best_of_stores():
        predicted, verdict = candidate.predicted, candidate.verdict or "fits, but is slower"
        if candidate == found.choice:
            verdict = "chosen"
        if candidate.measured_tokens < found.captured:
            verdict += f" (quality measured at {candidate.measured_tokens:,} tokens only)"
        table.add_row(
            escape(str(candidate.setting)),
            ("up to " if candidate.ram_is_budget else "") + in_bytes(predicted.ram),
            in_bytes(predicted.disk) if predicted.disk else "-",
            in_ms(predicted.latency),
            *(_share(getattr(predicted, figure)) for figure in quality.values()),
            verdict,
        )
    for name, reason in found.excluded.items():
        table.add_row(escape(name), *"-----", escape(reason))
    console = Console(width=WIDTH)
    console.print(table)
    kept = KEPT if found.limits.persistent else {}
    meanings = {each.name: each.meaning for each in (*COLUMNS, *ALL_KEYS)}
    explain(console, EXPLAINED | kept | {name: meanings[name] for name in quality})
    if hint := _hint(found):
        console.print(hint, highlight=False, markup=False)
    console.print(found.summary, highlight=False, markup=False)


def _hint(found: "Selection") -> str:
    """Return what may be better than the best keys; empty where nothing is."""
    from fotmem.plugin.create import find_store

    if found.top_k is None or found.tokens < ALL_KEYS_FROM:
        return ""
    stores = dict.fromkeys(each.setting.store for each in found.candidates)
    able = [name for name in stores if find_store(name).capabilities.estimates_tail]
    if not able:
        return ""
    return f"what a text needs everywhere is kept better by all keys: try --top-k all ({able[0]})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
