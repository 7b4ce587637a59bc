"""What a decoding step costs as memory grows: ``python -m benchmarks.decode STORE --tokens 1M``.

The demo model with memory in layers 17, 20 and 23, filled with what these layers captured, decodes
real text token by token; first with empty memory.
"""

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
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
from fotmem.capture import Capture
from fotmem.forward import cache_argument
from fotmem.models import load_model
from fotmem.texts import python_reference
from fotmem.training.tune import DISTANCE

STEPS, LOCAL = 40, 128
Row = dict[str, Any]


def decode(model: Any, ids: Tensor, name: str, capture: Capture, marks: list[int]) -> Iterator[Row]:
    """Yield the time of a step with empty memory, then at each mark."""
    layers = capture.info.layers
    with fotmem.attach(model, name, layers, window=WINDOW, distance=DISTANCE) as memory:
        for start, end in pairwise([0, *marks]):
            if start == 0:
                yield {"store": name, "tokens": 0, **step(model, ids)}
            fill(memory, capture, start, end)
            yield {"store": name, "tokens": end, **step(model, ids)}


def fill(memory: fotmem.Memory, capture: Capture, start: int, end: int) -> None:
    """Add the captured tokens from `start` to before `end`."""
    for layer in memory.layers:
        for first in range(start, end, STEP):
            memory.store(layer).add(*capture.rows(layer, first, min(first + STEP, end)))


@torch.no_grad()
def step(model: Any, ids: Tensor) -> Row:
    """Time decoding steps after a local context: median, and the middle half, in seconds."""
    cache = model(ids[None, :LOCAL], use_cache=True)[1]
    taken = []
    for place in range(LOCAL, LOCAL + STEPS):
        begin = time.perf_counter()
        model(ids[None, place : place + 1], **{cache_argument(type(model)): cache})
        taken.append(time.perf_counter() - begin)
    low, median, high = statistics.quantiles(taken, n=4)
    return {"step": median, "low": low, "high": high}


def main(
    store: str,
    tokens: Annotated[str, typer.Option(help="The most, such as 100k or 1M.")] = "100k",
    report: Annotated[Path | None, typer.Option(help="Write rows there, as JSON.")] = None,
) -> None:
    """Measure one store."""
    model, tokenizer = load_model(MODEL)
    text = python_reference()[:10_000]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
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
