"""Attention-mass recall on every layer: ``python -m benchmarks.layers STORE --builds 5``.

It is measured for the top 32 with default options, for every layer of the demo model and for
stores built with several seeds. Capturing comes first.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fotmem
from benchmarks.captured import demo
from benchmarks.growth import STEP, TOP_K, write
from fotmem.cli.parsing import parse_sizes
from fotmem.measure.bench.figures import attention_mass_recall, truth
from fotmem.measure.capture import Capture
from fotmem.plugin.create import find_store

LAYERS = range(30)
QUERIES = 256
"""Queries of a head."""
Row = dict[str, Any]


def found(name: str, capture: Capture, builds: int) -> Iterator[Row]:
    """Yield a row per layer: the attention-mass recall of each build."""
    seeded = "seed" in fotmem.available_stores()[name].options.model_fields
    info = capture.info
    for layer in info.layers:
        queries, blocks = capture.queries(layer)[:, :QUERIES], [*capture.blocks(layer, STEP)]
        exact = truth(queries, blocks, scale=info.scale, top_k=TOP_K)
        masses = []
        for seed in range(builds if seeded else 1):
            options: dict[str, Any] = {"seed": seed} if seeded else {}
            with fotmem.create_store(
                name, num_heads=info.num_heads, head_dim=info.head_dim, **options
            ) as store:
                for rows in blocks:
                    store.add(*rows)
                masses.append(
                    attention_mass_recall(store.search(exact.queries, TOP_K).scores, exact)
                )
        yield {
            "store": name,
            "layer": layer,
            "tokens": info.tokens,
            "attention_mass_recalls": masses,
        }


def main(
    store: str,
    tokens: Annotated[str, typer.Option(help="How many, such as 64k.")] = "64k",
    builds: Annotated[int, typer.Option(min=1, help="Seeds to build with.")] = 5,
    report: Annotated[Path | None, typer.Option(help="Write rows there, as JSON.")] = None,
) -> None:
    """Measure one store."""
    find_store(store)  # it is known, or this says what is
    [size] = parse_sizes(tokens, "--tokens", one=True)
    rows = []
    table = Table("layer", *map(str, range(builds)), title=f"{store}: attention-mass recall")
    every = found(store, demo(size, LAYERS), builds)
    for row in track(every, store, total=len(LAYERS), console=Console(stderr=True)):
        rows.append(row)
        table.add_row(str(row["layer"]), *(f"{mass:.4f}" for mass in row["attention_mass_recalls"]))
        if report is not None:
            write(report, rows)
    Console().print(table)
    worst = min(rows, key=lambda row: float(min(row["attention_mass_recalls"])))
    print(f"worst: layer {worst['layer']}, {min(worst['attention_mass_recalls']):.4f}")


if __name__ == "__main__":
    typer.run(main)
