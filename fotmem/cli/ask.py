"""``fotmem ask``."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fotmem.cli.loading import load_quietly, read_texts
from fotmem.cli.options import (
    Config,
    Decay,
    Distance,
    Dtype,
    Json,
    Layers,
    Model,
    StoreOption,
    StoreOrConfig,
    Temperature,
    Texts,
    TopK,
    Window,
)
from fotmem.cli.parsing import parse_layers, parse_question, parse_store, parse_top_k

if TYPE_CHECKING:
    from fotmem.memory.explain import AttendedToken


def ask(
    model: Model,
    question: Annotated[
        str,
        typer.Argument(
            metavar="QUESTION", help="A question about the texts.", callback=parse_question
        ),
    ],
    text: Texts,
    layers: Layers = None,
    window: Window = 512,
    distance: Distance = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    top_k: TopK = "32",
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006 - typer copies it
    config: Config = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 40,
    as_json: Json = False,
) -> None:
    """Read texts into memory and answer a question, with its sources.

    Example: fotmem ask smollm2 --text book.txt "Who is the captain?"
    """
    chosen, hits, corpus = parse_layers(layers), parse_top_k(top_k), read_texts(text)
    name, store_options = parse_store(store, option, config)
    llama, tokenizer = load_quietly(model, dtype)
    from fotmem.memory.attachment import attach
    from fotmem.tasks.answer import answer_question, passage, question_prompt

    prompt = question_prompt(tokenizer, question)
    attached = attach(
        llama,
        name,
        chosen,
        top_k=hits,
        window=window,
        distance=distance,
        decay=decay,
        temperature=temperature,
        **store_options,
    )
    with attached as memory:
        memory.read(tokenizer(corpus).input_ids, overlap=min(16, window // 2), progress=True)
        found = answer_question(
            llama, tokenizer, prompt, memory=memory, max_new_tokens=max_new_tokens
        )
        passages = [passage(tokenizer, memory, source.position) for source in found.sources]
    plain = answer_question(llama, tokenizer, prompt, max_new_tokens=max_new_tokens)
    if as_json:
        report = {
            "question": question,
            "tokens": len(memory),
            "answer_without_memory": plain.text,
            "answer": found.text,
            "sources": [
                source._asdict() | {"passage": "".join(pieces)}
                for source, pieces in zip(found.sources, passages, strict=True)
            ],
        }
        print(json.dumps(report, indent=2))
        return
    console = Console()
    console.print(f"[bold]without memory[/bold]  {escape(plain.text)}")
    console.print(f"[bold]with memory[/bold]     {escape(found.text)}")
    console.print(sources_table(found.sources, passages))


def sources_table(sources: "list[AttendedToken]", passages: list[tuple[str, str, str]]) -> Table:
    """Return a table of remembered tokens in their passages."""
    table = Table("token", "layer", "attention", "passage", title="most attended tokens")
    for source, (before, token, after) in zip(sources, passages, strict=True):
        table.add_row(
            f"{source.position:,}",
            str(source.layer),
            f"{source.weight:.1%}",
            f"{_line(before)}[reverse]{_line(token)}[/reverse]{_line(after)}",
        )
    return table


def _line(text: str) -> str:
    return escape(text.replace("\n", "⏎"))
