"""``fotmem eval facts``."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.beside import ask_beside, parse_beside, show_beside
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
from fotmem.progress import tracked

if TYPE_CHECKING:
    from fotmem.measure.evaluate.facts import FactsRow

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
        typer.Option("--facts", min=1, help="Number of facts; default: 32, or one per 64 tokens."),
    ] = None,
    window: Window = 512,
    distance: Distance = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    layers: Layers = None,
    top_k: TopK = "16",
    store: StoreOrConfig = None,
    option: StoreOption = [],  # noqa: B006 - typer copies it
    config: Config = None,
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
    ways = parse_beside(beside)
    task = Task(context, number=number)
    from fotmem.measure.evaluate.alternatives.asked_texts import of_facts
    from fotmem.measure.evaluate.facts import ask_facts, hide, make_facts
    from fotmem.models.tokens import token_ids

    llama, tokenizer = task.model, task.tokenizer
    ids = token_ids(tokenizer, task.text)
    made = make_facts(number, seed)
    piece = hide(tokenizer, ids, made, tokens=size, seed=seed)
    rows: list[FactsRow] = []
    steps = ask_facts(llama, tokenizer, piece, made, None, None)
    rows += [*tracked("without memory", steps, number)][-1]
    with task.attach() as memory:
        steps = ask_facts(llama, tokenizer, piece, made, memory, task.store, attend=attend)
        rows += [*tracked("with memory   ", steps, number)][-1]
    asked = of_facts(tokenizer, piece, made)
    others = ask_beside(task, ways, asked, about="facts", tokens=size)
    if task.write(rows, report, as_json=as_json, beside=others):
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
