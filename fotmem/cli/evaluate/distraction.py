"""``fotmem eval distraction``."""

from statistics import mean
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.evaluate.task import Task, shown
from fotmem.cli.legend import explain
from fotmem.cli.options import (
    Decay,
    Distance,
    Dtype,
    Json,
    Layers,
    Model,
    Report,
    Temperature,
    TextsOrReference,
    TopK,
    Window,
    seed_option,
)
from fotmem.cli.parsing import parse_sizes
from fotmem.errors import require_packages
from fotmem.progress import tracked

QUERIES = 128
EXPLAINED = {
    "right document": "attention on the document that a window searches for, as a share of the "
    "attention on memory",
    "weighted": "the same share, each query weighted by its attention on memory",
    "by chance": "1/d for d documents: the share if the model does not distinguish them",
    "memory": "share of all attention that goes to memory; the rest stays in the window",
}


def distraction(
    context: typer.Context,
    model: Model,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    documents: Annotated[
        int, typer.Option(min=1, help="Largest number of documents: a power of two.")
    ] = 64,
    tokens: Annotated[str, typer.Option(help="Tokens of a document in memory.")] = "512",
    queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens that follow a document and search for it; default: 128, or a window.",
        ),
    ] = None,
    facts: Annotated[
        bool, typer.Option("--facts", help="Hide a fact in each document, and ask for it instead.")
    ] = False,
    window: Window = 512,
    distance: Distance = None,
    decay: Decay = None,
    temperature: Temperature = None,
    dtype: Dtype = None,
    layers: Layers = None,
    top_k: TopK = "32",
    seed: Annotated[int, seed_option("Seed of the places and the order of documents.")] = 0,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Measure the attention on the right document among 1, 2, 4, ... documents in memory.

    Example: fotmem eval distraction smollm2 --documents 64 --text book.txt
    """
    [length] = parse_sizes(tokens, "--tokens", one=True)
    require_packages("fotmem eval distraction", "scipy")
    queries = min(QUERIES, window) if queries is None else queries
    from fotmem.measure.evaluate.distraction import measure_distraction
    from fotmem.measure.evaluate.documents import check, cut, with_facts
    from fotmem.models.tokens import token_ids

    check(documents, queries, window)
    task = Task(context, queries=queries)
    ids = token_ids(task.tokenizer, task.text)
    made = cut(ids, documents=documents, tokens=length, queries=queries, seed=seed)
    if facts:
        made = with_facts(task.tokenizer, made, seed, window)
    with task.attach() as memory:
        steps = measure_distraction(task.model, memory, made)
        rows = list(tracked("measuring", steps, documents.bit_length()))
    if task.write(rows):
        return
    from fotmem.measure.bench.table import WIDTH

    table = Table("documents", "right document", "weighted", "by chance", "memory", "seconds")
    for row in rows:
        table.add_row(
            f"{row.documents:,}",
            shown(row.right_document),
            shown(row.right_document_weighted),
            f"{row.uniform:.3f}",
            f"{row.memory_share.value:.3f}",
            f"{row.seconds:.0f}",
        )
    layered = Table("layer", "right document", "best head", title=f"{documents:,} documents")
    for layer, heads in rows[-1].heads.items():
        layered.add_row(f"{layer}", f"{mean(heads):.3f}", f"{max(heads):.3f}")
    console = Console(width=WIDTH)
    console.print(table)
    console.print(layered)
    explain(console, EXPLAINED)
