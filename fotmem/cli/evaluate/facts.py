"""``fotmem eval facts``."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.arguments import PASSAGES
from fotmem.cli.evaluate.answers import ask_with_memory, ask_without_memory
from fotmem.cli.evaluate.beside import ask_beside, check_room, parse_beside, show_beside
from fotmem.cli.evaluate.task import EXACT_MATCH, Task, interval
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Attend,
    Beside,
    Config,
    Decay,
    Distance,
    Dtype,
    Json,
    Layers,
    Model,
    Passages,
    Recent,
    Report,
    StoreOption,
    StoreOrConfig,
    Temperature,
    TextsOrReference,
    TopK,
    Window,
    seed_option,
)
from fotmem.cli.parsing import parse_sizes

FACTS, TOKENS_PER_FACT = 32, 64
EXPLAINED = {
    "facts": "kind: by wording of statement and question, or by number of digits",
    EXACT_MATCH: "share of facts whose number is entirely correct, with its 95% interval",
    "number": "number of facts of this kind",
    "seconds": "time of all facts, with reading",
}


def facts(
    context: typer.Context,
    model: Model,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    tokens: Annotated[str, typer.Option(help="Length of the text, such as 16k.")] = "16k",
    number: Annotated[
        int | None,
        typer.Option(
            "--facts", min=1, max=20_000, help="Number of facts; default: 32, or one per 64 tokens."
        ),
    ] = None,
    window: Window = 512,
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
    passages: Passages = PASSAGES,
    attend: Attend = False,
    beside: Beside = None,
    seed: Annotated[int, seed_option("Seed of facts, depths and the piece of text.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Hide many numbers under different names in one text, and ask for each.

    The numbers have 3 to 9 digits. Half of the facts use other words than those of the training.

    Example: fotmem eval facts smollm2 --tokens 16k --text book.txt
    """
    [size] = parse_sizes(tokens, "--tokens", one=True)
    number = max(1, min(FACTS, size // TOKENS_PER_FACT)) if number is None else number
    if number > size:
        raise typer.BadParameter(
            f"expected no more than tokens, {size:,}, got {number:,}", param_hint="'--facts'"
        )
    ways = parse_beside(beside)
    task = Task(context, number=number)
    from fotmem.measure.evaluate.alternatives.asked_texts import of_facts
    from fotmem.measure.evaluate.facts import facts_rows, hide, make_facts
    from fotmem.models.tokens import token_ids

    made = make_facts(number, seed)
    ids = token_ids(task.tokenizer, task.text)
    piece = hide(task.tokenizer, ids, made, tokens=size, seed=seed)
    asked = of_facts(task.tokenizer, piece, made)
    check_room(task, ways, asked)
    without = ask_without_memory(task, "", asked)
    rows = facts_rows(made, without, tokens=size, store=None)
    with_memory = ask_with_memory(task, "", asked)
    rows += facts_rows(made, with_memory, tokens=size, store=task.store)
    task.keep(rows)
    others = ask_beside(task, ways, asked, with_memory, about="facts", tokens=size)
    if task.write(rows, beside=others):
        return
    table = Table("facts", "memory", EXACT_MATCH, "number", "seconds")
    for row in rows:
        table.add_row(
            row.kind,
            row.store or "none",
            f"{row.exact_match:.2f} ({interval(row.exact_match_interval)})",
            str(row.facts),
            f"{row.seconds:.0f}",
        )
    console = Console()
    console.print(table)
    explain(console, EXPLAINED)
    show_beside(others)
