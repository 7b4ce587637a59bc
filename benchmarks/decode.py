"""The cost of a decoding step as memory grows: ``python -m benchmarks.decode STORE --tokens 1M``.

The demo model has memory in layers 17, 20 and 23, filled with captures of these layers. It decodes
real text token by token, each token with empty memory and with memories of all sizes in turn.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fotmem
from benchmarks.captured import MODEL, WINDOW, demo
from benchmarks.growth import STEP, marks_up_to, write
from fotmem.files import python_reference
from fotmem.measure.capture import Capture
from fotmem.memory.contents import Contents
from fotmem.models.load import load_model
from fotmem.models.model_parts import cache_argument
from fotmem.models.tokens import token_ids
from fotmem.stores import MemoryStore
from fotmem.training.tune import DISTANCE

STEPS, LOCAL = 40, 128
Row = dict[str, Any]
Held = dict[int, Contents]
"""Stores of all memory layers, by how many tokens they hold."""


def decode(model: Any, ids: Tensor, name: str, capture: Capture, marks: list[int]) -> Iterator[Row]:
    """Yield the time of a step with empty memory, then at each mark: median and middle half."""
    info = capture.info
    with fotmem.attach(model, name, info.layers, window=WINDOW, distance=DISTANCE) as memory:
        held = {size: Contents(memory.attached_model.contents.makers) for size in (0, *marks)}
        for size, contents in held.items():
            for layer in info.layers:
                contents.stores[layer] = filled(name, capture, layer, size)
        for size, taken in steps(model, ids, memory, held).items():
            low, median, high = statistics.quantiles(taken, n=4)
            yield {"store": name, "tokens": size, "step": median, "low": low, "high": high}


def filled(name: str, capture: Capture, layer: int, tokens: int) -> MemoryStore:
    """Make a store that holds the first captured tokens."""
    store = fotmem.create_store(
        name, num_heads=capture.info.num_heads, head_dim=capture.info.head_dim
    )
    for rows in capture.blocks(layer, STEP, tokens):
        store.add(*rows)
    return store


@torch.no_grad()
def steps(model: Any, ids: Tensor, memory: fotmem.Memory, held: Held) -> dict[int, list[float]]:
    """Time steps after a local context, in seconds, with one size of memory after the other."""
    memory.attached_model.contents = held[0]
    caches = {size: model(ids[None, :LOCAL], use_cache=True)[1] for size in held}
    taken: dict[int, list[float]] = {size: [] for size in held}
    for place in range(LOCAL, LOCAL + STEPS):
        for size, cache in caches.items():
            memory.attached_model.contents = held[size]
            begin = time.perf_counter()
            model(ids[None, place : place + 1], **{cache_argument(type(model)): cache})
            taken[size].append(time.perf_counter() - begin)
    return taken


def main(
    store: str,
    tokens: Annotated[str, typer.Option(help="The most, such as 100k or 1M.")] = "100k",
    report: Annotated[Path | None, typer.Option(help="Write rows there, as JSON.")] = None,
) -> None:
    """Measure one store."""
    model, tokenizer = load_model(MODEL)
    text = python_reference()[:10_000]
    ids = torch.tensor(token_ids(tokenizer, text))
    table = Table("tokens", "step", "middle half", title=store)
    rows = []
    marks = marks_up_to(tokens)
    for row in decode(model, ids, store, demo(max(marks)), marks):
        rows.append(row)
        low, median, high = (f"{1e3 * row[key]:.1f} ms" for key in ("low", "step", "high"))
        table.add_row(f"{row['tokens']:,}", median, f"{low} to {high}")
        if report is not None:
            write(report, rows)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
