"""``fotmem ask``."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from fotmem.arguments import PASSAGES
from fotmem.cli.memories import opened_memory, read_memory, refuse_texts
from fotmem.cli.options import (
    Config,
    Decay,
    Distance,
    Dtype,
    Json,
    Layers,
    OptionalTopK,
    OptionalWindow,
    Passages,
    Recent,
    StoreOption,
    StoreOrConfig,
    Temperature,
    Texts,
)
from fotmem.cli.parsing import parse_layers, parse_question, parse_store, parse_top_k
from fotmem.cli.printable import printable, printable_name

if TYPE_CHECKING:
    from fotmem.memory.stats import MemoryStats
    from fotmem.tasks.passages import Passage


def ask(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder, a GGUF file, a hub id, [bold]smollm2[/bold] or "
            "[bold]smollm2-fot[/bold], with --text; or the directory of a memory, without.",
        ),
    ],
    question: Annotated[
        str,
        typer.Argument(
            metavar="QUESTION", help="A question about the texts.", callback=parse_question
        ),
    ],
    text: Texts = [],  # noqa: B006 - typer copies it
    only: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Ask this document only; may be repeated (with a DIR)."),
    ] = [],  # noqa: B006
    layers: Layers = None,
    window: OptionalWindow = None,
    distance: Distance = None,
    recent: Recent = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    top_k: OptionalTopK = None,
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006
    config: Config = None,
    trusted: Annotated[
        bool,
        typer.Option(
            "--trusted", help="Load indexes that fotmem did not write for you here (with a DIR)."
        ),
    ] = False,
    passages: Passages = PASSAGES,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 40,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the answer without memory, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer a question from texts or from a saved memory, with its sources.

    Example: fotmem ask smollm2 --text book.txt "Who is the captain?"
    """
    from fotmem.directory.committed import is_memory
    from fotmem.tasks.answer import answer_question, question_prompt
    from fotmem.tasks.asking import answer_from

    given = {
        "layers": parse_layers(layers),
        "top_k": None if top_k is None else (parse_top_k(top_k),),
        "window": window,
        "distance": distance,
        "recent": recent,
        "decay": decay,
        "temperature": temperature,
    }
    name, store_options = parse_store(store, option, config)
    if is_memory(model):
        refuse_texts(text, given)
        llama, tokenizer, attached = opened_memory(
            model, dtype, name, store_options, given, trusted=trusted
        )
    else:
        llama, tokenizer, attached = read_memory(model, dtype, text, name, store_options, given)
    with attached as memory, memory.only(only) if only else nullcontext():
        answer, sources = answer_from(
            memory, llama, tokenizer, question, passages=passages, max_new_tokens=max_new_tokens
        )
        read = memory.stats() if memory.directory else None
    plain = None
    if compare:
        prompt = question_prompt(tokenizer, question)
        plain = answer_question(llama, tokenizer, prompt, max_new_tokens=max_new_tokens).text
    if as_json:
        report = _report(question, len(memory), answer, plain, sources, read)
        print(json.dumps(report, indent=2))
        return
    console = Console()
    if plain is not None:
        console.print(f"[bold]without memory[/bold]  {escape(printable(plain))}")
    label = "[bold]with memory[/bold]     " if compare else ""
    console.print(f"{label}{escape(printable(answer))}")
    console.print(sources_table(sources))
    if read is not None:
        print(f"read {decimal(read.bytes_read)} in {read.requests:,} requests", file=sys.stderr)


def _report(
    question: str,
    tokens: int,
    answer: str,
    plain: str | None,
    sources: "list[Passage]",
    read: "MemoryStats | None",
) -> dict[str, Any]:
    without = {} if plain is None else {"answer_without_memory": plain}
    shown = [asdict(source) for source in sources]
    traffic = {} if read is None else {"requests": read.requests, "bytes_read": read.bytes_read}
    return {
        **{"question": question, "tokens": tokens, **without, "answer": answer},
        **{"sources": shown, **traffic},
    }


def sources_table(sources: "list[Passage]") -> Table:
    """Return a table of passages, and where they stand."""
    table = Table("document", "characters", "attention", "passage", title="sources")
    for source in sources:
        known = source.characters
        place = f"token {source.tokens[0]:,}" if known is None else f"{known[0]:,} to {known[1]:,}"
        text = escape(printable(source.text).replace("\n", "⏎"))
        table.add_row(escape(printable_name(source.document)), place, f"{source.weight:.1%}", text)
    return table
