"""``fotmem layers``."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fotmem.cli.loading import load_quietly, read_texts
from fotmem.cli.options import Json, Model, TextsOrReference, seed_option
from fotmem.files import cache_folder
from fotmem.outputs import check_folder

if TYPE_CHECKING:
    from fotmem.models.memory_layers import LayerScores

WIDTH = 40
"""Characters of the longest bar."""


def layers(
    model: Model,
    trials: Annotated[
        int, typer.Option(min=1, help="Number of trials, each with a hidden number.")
    ] = 20,
    text: TextsOrReference = [],  # noqa: B006 - typer copies it
    seed: Annotated[int, seed_option("Seed of numbers and places.")] = 0,
    as_json: Json = False,
) -> None:
    """Find the layers that retrieve, and propose them as memory layers.

    The proposal is saved: attaching a memory to this model uses these layers from now on,
    unless the model's config names others (mem_layers).

    Example: fotmem layers smollm2
    """
    check_folder(cache_folder("layers"))
    corpus = read_texts(text)
    llama, tokenizer = load_quietly(model)
    from fotmem.measure.retrieval_heads import find_memory_layers
    from fotmem.models.memory_layers import store_proposal
    from fotmem.models.model_parts import model_parts

    found = find_memory_layers(
        llama, tokenizer, text=corpus, trials=trials, seed=seed, progress=True
    )
    file = store_proposal(model_parts(llama), found)
    if as_json:
        print(json.dumps(found._asdict()))
        return
    console = Console()
    console.print(_chart(found))
    console.print(f"proposed memory layers: {', '.join(map(str, found.memory_layers))}")
    console.print(f"[dim]saved in {file}[/dim]", soft_wrap=True)
    chosen = getattr(llama.config, "mem_layers", None)
    if chosen is not None:
        console.print(f"[dim]the config of this model names other memory layers: {chosen}[/dim]")


def _chart(found: "LayerScores") -> Table:
    table = Table("layer", "score", "", title="retrieval score, mean over heads")
    best = max(found.scores)
    for layer, score in enumerate(found.scores):
        style = "bold" if layer in found.memory_layers else ""
        bar = "█" * round(WIDTH * score / best)
        table.add_row(str(layer), f"{score:.3f}", bar, style=style)
    return table
