"""What a store finds on every layer: ``python -m benchmarks.layers STORE --builds 5``.

The share of the softmax mass of the exact top 32 that its own top 32 have, with default options,
for every layer of the demo model and stores built with several seeds. Capturing comes first.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fotmem
from benchmarks.captured import PART, WINDOW, Source, demo, taken
from benchmarks.growth import STEP, TOP_K, write
from benchmarks.quality import mass_of
from fotmem.cli.options import parse_sizes
from fotmem.registry import find_store

LAYERS = range(30)
JUDGED = 256
"""Queries of a head by which it is judged."""
Row = dict[str, Any]


def found(
    name: str, source: Callable[[int], Source], layers: Iterable[int], tokens: int, builds: int
) -> Iterator[Row]:
    """Yield a row per layer: the mass found by each build."""
    seeded = "seed" in fotmem.available_stores()[name].options.model_fields
    for layer in layers:
        keys, values, queries = taken(source(layer), tokens)
        heads, _, dim = keys.shape
        some, scale = queries[:, :JUDGED].contiguous(), dim**-0.5
        with fotmem.create_store("exact", num_heads=heads, head_dim=dim) as exact:
            exact.add(keys, values)
            best = exact.search(some, TOP_K).scores
            lse = exact.attend(some, top_k=None, scale=scale).lse
        masses = []
        for seed in range(builds if seeded else 1):
            options: dict[str, Any] = {"seed": seed} if seeded else {}
            with fotmem.create_store(name, num_heads=heads, head_dim=dim, **options) as store:
                for block in zip(keys.split(STEP, 1), values.split(STEP, 1), strict=True):
                    store.add(*block)
                scores = store.search(some, TOP_K).scores
            masses.append(mass_of(scores, best, lse, scale=scale))
        yield {"store": name, "layer": layer, "tokens": tokens, "masses": masses}


def main(
    store: str,
    tokens: Annotated[str, typer.Option(help="How many, such as 64k.")] = "64k",
    builds: Annotated[int, typer.Option(min=1, help="Seeds to build with.")] = 5,
    window: Annotated[int, typer.Option(help="The model's, while it reads.")] = WINDOW,
    report: Annotated[Path | None, typer.Option(help="Write rows there, as JSON.")] = None,
) -> None:
    """Measure one store."""
    find_store(store)  # it is known, or this says what is
    [size] = parse_sizes(tokens, "--tokens", one=True)
    console = Console(stderr=True)
    for number in track(range(-(-size // PART)), "capturing", console=console):
        demo(layers=LAYERS, window=window).make(number)
    rows = []
    table = Table("layer", *map(str, range(builds)), title=f"{store}: mass found, by build")
    every = found(store, lambda layer: demo(layers=[layer], window=window), LAYERS, size, builds)
    for row in track(every, store, total=len(LAYERS), console=console):
        rows.append(row)
        table.add_row(str(row["layer"]), *(f"{mass:.4f}" for mass in row["masses"]))
        if report is not None:
            write(report, rows)
    Console().print(table)
    worst = min(rows, key=lambda row: float(min(row["masses"])))
    print(f"worst: layer {worst['layer']}, {min(worst['masses']):.4f}")


if __name__ == "__main__":
    typer.run(main)
