"""``fotmem eval``: what memory does to a model's answers."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fotmem.cli.options import (
    Json,
    Layers,
    Model,
    Store,
    Texts,
    TopK,
    Window,
    load_quietly,
    parse_layers,
    parse_top_k,
    read_texts,
)
from fotmem.registry import find_store

if TYPE_CHECKING:
    from fotmem.memory import Memory
    from fotmem.passkey import PasskeyRow

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure what memory does to a model's answers.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """  # a callback also keeps `eval` a group while it has one command


@app.command()
def passkey(
    model: Model,
    text: Texts,
    tokens: Annotated[int, typer.Option(min=1, help="Length of each trial's text.")] = 4096,
    trials: Annotated[int, typer.Option(min=1, help="How many numbers are hidden.")] = 20,
    window: Window = 512,
    layers: Layers = None,
    top_k: TopK = "16",
    store: Store = "exact",
    seed: Annotated[int, typer.Option(help="Of depths, numbers and pieces of text.")] = 0,
    as_json: Json = False,
) -> None:
    """Hide a five-digit number at random depths of a text and ask for it, with and without memory.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """
    chosen, hits, corpus = parse_layers(layers), parse_top_k(top_k), read_texts(text)
    find_store(store)
    llama, tokenizer = load_quietly(model)
    from fotmem import passkey as task
    from fotmem.attachment import attach

    made = task.make_trials(tokenizer, corpus, tokens=tokens, trials=trials, seed=seed)
    bar = Console(stderr=True)

    def measure(label: str, memory: "Memory | None", name: str | None) -> "PasskeyRow":
        steps = task.passkey(llama, tokenizer, made, memory, name)
        return list(track(steps, label, total=trials, console=bar))[-1]

    with attach(llama, store, chosen, top_k=hits, window=window) as attached:
        with_memory = measure("with memory   ", attached, store)
    rows = [measure("without memory", None, None), with_memory]
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
        return
    table = Table("tokens", "memory", "digits right", "whole answers", "trials", "seconds")
    for row in rows:
        table.add_row(
            f"{row.tokens:,}",
            row.store or "none",
            f"{row.digit_accuracy:.2f}",
            f"{row.answer_accuracy:.2f}",
            str(row.trials),
            f"{row.seconds:.0f}",
        )
    Console().print(table)
