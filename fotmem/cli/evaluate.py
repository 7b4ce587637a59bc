"""``fotmem eval``: what memory does to a model's answers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fotmem.cli.options import (
    Attend,
    Json,
    Layers,
    Model,
    Report,
    Store,
    Texts,
    TopK,
    Window,
    load_quietly,
    parse_layers,
    parse_sizes,
    parse_top_k,
    read_texts,
)
from fotmem.registry import find_store

if TYPE_CHECKING:
    from fotmem.memory import Memory

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure what memory does to a model's answers.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """


@app.command()
def passkey(
    model: Model,
    text: Texts,
    tokens: Annotated[str, typer.Option(help="Lengths of text, such as 4096 or 4k,16k.")] = "4096",
    trials: Annotated[int, typer.Option(min=1, help="How many numbers are hidden.")] = 20,
    readings: Annotated[
        int | None,
        typer.Option(min=1, help="Pieces of text that trials share; default: one for each."),
    ] = None,
    window: Window = 512,
    layers: Layers = None,
    top_k: TopK = "16",
    store: Store = "exact",
    attend: Attend = False,
    seed: Annotated[int, typer.Option(help="Of depths, numbers and pieces of text.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Hide a five-digit number at random depths of a text and ask for it, with and without memory.

    Example: fotmem eval passkey smollm2 --tokens 4096 --text book.txt
    """
    chosen, hits, corpus = parse_layers(layers), parse_top_k(top_k), read_texts(text)
    sizes = parse_sizes(tokens, "--tokens")
    options = dict(locals())
    find_store(store)
    llama, tokenizer = load_quietly(model)
    from fotmem.attachment import attach
    from fotmem.evaluation import passkey as task

    made = {
        size: task.make_trials(
            tokenizer,
            corpus,
            tokens=size,
            trials=trials,
            seed=seed,
            window=window,
            readings=readings,
        )
        for size in sizes
    }

    def measure(label: str, size: int, memory: "Memory | None") -> task.PasskeyRow:
        name = None if memory is None else store
        steps = task.passkey(llama, tokenizer, made[size], memory, name, attend=attend)
        row: task.PasskeyRow = _last(f"{size:,} tokens, {label}", steps, trials)
        return row

    with attach(llama, store, chosen, top_k=hits, window=window) as attached:
        with_memory = {size: measure("with memory   ", size, attached) for size in sizes}
    rows = []
    for size in sizes:
        rows += [measure("without memory", size, None), with_memory[size]]
    if _written("passkey", options, rows, report, as_json):
        return
    table = Table("tokens", "memory", "digits right", "whole answers", "trials", "seconds")
    for row in rows:
        table.add_row(
            f"{row.tokens:,}",
            row.store or "none",
            f"{row.digit_accuracy:.2f}",
            f"{row.answer_accuracy:.2f} ({_interval(row.answer_interval)})",
            str(row.trials),
            f"{row.seconds:.0f}",
        )
    Console().print(table)


@app.command()
def facts(
    model: Model,
    text: Texts,
    tokens: Annotated[str, typer.Option(help="Length of text, such as 16k.")] = "16k",
    number: Annotated[int, typer.Option("--facts", min=1, help="How many are hidden.")] = 32,
    window: Window = 512,
    layers: Layers = None,
    top_k: TopK = "16",
    store: Store = "exact",
    attend: Attend = False,
    seed: Annotated[int, typer.Option(help="Of facts, depths and the piece of text.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Hide many numbers under different names in one text, and ask for each.

    Half of them are told and asked in words that training does not use; they have 3 to 8 digits.

    Example: fotmem eval facts smollm2 --tokens 16k --text book.txt
    """
    chosen, hits, corpus = parse_layers(layers), parse_top_k(top_k), read_texts(text)
    [size] = parse_sizes(tokens, "--tokens", one=True)
    options = dict(locals())
    find_store(store)
    llama, tokenizer = load_quietly(model)
    from fotmem.attachment import attach
    from fotmem.evaluation import keyed as task

    ids = tokenizer(corpus, add_special_tokens=False, verbose=False).input_ids
    made = task.make_facts(number, seed)
    piece = task.hide(tokenizer, ids, made, tokens=size, seed=seed)
    rows: list[task.KeyedRow] = []
    steps = task.keyed(llama, tokenizer, piece, made, None, None)
    rows += _last("without memory", steps, number)
    with attach(llama, store, chosen, top_k=hits, window=window) as memory:
        steps = task.keyed(llama, tokenizer, piece, made, memory, store, attend=attend)
        rows += _last("with memory   ", steps, number)
    if _written("facts", options, rows, report, as_json):
        return
    table = Table("facts", "memory", "whole answers", "number", "seconds")
    for row in rows:
        table.add_row(
            row.kind,
            row.store or "none",
            f"{row.answer_accuracy:.2f} ({_interval(row.answer_interval)})",
            str(row.facts),
            f"{row.seconds:.0f}",
        )
    Console().print(table)


@app.command()
def perplexity(
    model: Model,
    text: Texts,
    tokens: Annotated[str, typer.Option(help="Sizes of memory, such as 4k,16k.")] = "4k,16k",
    scored: Annotated[str, typer.Option(help="Tokens at the end of the text to score.")] = "4k",
    window: Window = 512,
    layers: Layers = None,
    top_k: TopK = "32",
    store: Store = "exact",
    attend: Attend = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure the perplexity of a text's end, with what stands before it in memory and without.

    Example: fotmem eval perplexity smollm2 --tokens 4k,16k --text book.txt
    """
    chosen, hits, corpus = parse_layers(layers), parse_top_k(top_k), read_texts(text)
    sizes, [length] = parse_sizes(tokens, "--tokens"), parse_sizes(scored, "--scored", one=True)
    options = dict(locals())
    find_store(store)
    llama, tokenizer = load_quietly(model)
    from fotmem.attachment import attach
    from fotmem.evaluation import perplexity as task
    from fotmem.evaluation.passkey import OVERLAP

    ids = tokenizer(corpus, add_special_tokens=False, verbose=False).input_ids
    with attach(llama, store, chosen, top_k=hits, window=window) as memory:
        overlap = min(OVERLAP, memory.windowing.window // 2)
        steps = task.perplexity(
            llama, memory, ids, sizes, store=store, scored=length, overlap=overlap, attend=attend
        )
        rows = list(_tracked("measuring", steps, 1 + len(sizes)))
    if _written("perplexity", options, rows, report, as_json):
        return
    table = Table("in memory", "perplexity", "nats against none", "tokens", "seconds")
    for row in rows:
        table.add_row(
            f"{row.tokens:,}" if row.memory else "none",
            f"{row.perplexity:.3f}",
            f"{row.difference:+.3f} ({_interval(row.difference_interval, '+.3f')})" * row.memory,
            f"{row.scored:,}",
            f"{row.seconds:.0f}",
        )
    Console().print(table)


def _tracked(label: str, steps: Iterable[Any], total: int) -> Iterable[Any]:
    return track(steps, label, total=total, console=Console(stderr=True))


def _last(label: str, steps: Iterable[Any], total: int) -> Any:
    return list(_tracked(label, steps, total))[-1]


def _interval(ends: tuple[float, float], digits: str = ".2f") -> str:
    return f"{ends[0]:{digits}} to {ends[1]:{digits}}"


def _written(
    task: str, options: dict[str, Any], rows: Sequence[Any], file: Path | None, as_json: bool
) -> bool:
    """Write the report if asked to, and the JSON; tell whether there was JSON."""
    if file is not None:
        from fotmem.evaluation.report import report, write_report

        options = {name: options[name] for name in options if name != "corpus"}
        write_report(file, report(task, options, rows))
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
    return as_json
