"""A decoding step of `smollm2-fot` with a large memory, against the plain model.

``python -m benchmarks.decode_tuned CAPTURE --stores clusters,exact --tokens 1M``: in bfloat16, with
five memory layers. Their stores hold the same captured rows again and again, each key moved a
little. Both models decode the same token in turn. With one thread, time is the processor's, so that
other work on the machine does not count; with more, it is that of the clock.
"""

import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fotmem
from benchmarks.captured import WINDOW
from benchmarks.growth import STEP, write
from fotmem.cli.parsing import parse_sizes, parse_stores
from fotmem.files import python_reference
from fotmem.measure.capture import Capture
from fotmem.models.load import load_model
from fotmem.models.model_parts import cache_argument
from fotmem.models.tokens import token_ids
from fotmem.stores import MemoryStore

MODEL, DTYPE = "smollm2-fot", torch.bfloat16
STEPS, LOCAL = 40, 128
MOVED = 0.1
"""Noise on keys that come again, in units of their standard deviation."""
Row = dict[str, Any]


class Side(NamedTuple):
    """A model that decodes, and its cache."""

    model: Any
    cache: Any

    @classmethod
    def begun(cls, model: Any, ids: Tensor) -> "Side":
        """Let a model see the local context."""
        return cls(model, model(ids[None, :LOCAL], use_cache=True)[1])

    def step(self, ids: Tensor, place: int) -> None:
        """Decode a token."""
        self.model(ids[None, place : place + 1], **{cache_argument(type(self.model)): self.cache})


def filled(name: str, capture: Capture, layer: int, tokens: int) -> MemoryStore:
    """Make a store of a layer's captured rows, which come again until there are as many tokens."""
    info = capture.info
    store = fotmem.create_store(name, num_heads=info.num_heads, head_dim=info.head_dim, dtype=DTYPE)
    draw = torch.Generator().manual_seed(layer)
    while len(store) < tokens:
        moved = MOVED if len(store) else 0.0
        for keys, values in capture.blocks(layer, STEP, tokens - len(store)):
            noise = torch.randn(keys.shape, generator=draw) * (moved * keys.float().std())
            store.add((keys + noise).to(DTYPE), values.to(DTYPE))
    return store


@torch.no_grad()
def measured(
    plain: Any, store: MemoryStore, ids: Tensor, name: str, decay: float | None
) -> list[float]:
    """Return by which factor each step takes longer with memory."""
    top_k = None if name == "clusters" else 32
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    options: Any = {"window": WINDOW, "top_k": top_k, "decay": decay}
    with fotmem.attach(copy.deepcopy(plain), name, **options) as memory:
        memory.attached_model.contents.stores.update((n, store.copy()) for n in memory.layers)
        sides = [Side.begun(each, ids) for each in (plain, memory.attached_model.parts.model)]
        taken: list[list[float]] = [[], []]
        for place in range(LOCAL, LOCAL + STEPS):
            order = (0, 1) if place % 2 else (1, 0)
            for side in order:
                begin = clock()
                sides[side].step(ids, place)
                taken[side].append(clock() - begin)
    return [slow / fast for fast, slow in zip(*taken, strict=True)]


def rows(
    names: list[str],
    capture: Capture,
    sizes: list[int],
    threads: list[int],
    decay: float | None = None,
) -> Iterator[Row]:
    """Yield the factor for each store, size and number of threads: median and middle half."""
    plain, tokenizer = load_model(MODEL, dtype=DTYPE)
    ids = torch.tensor(token_ids(tokenizer, python_reference()[:10_000]))
    for name in names:
        for tokens in sizes:
            store = filled(name, capture, plain.config.mem_layers[0], tokens)
            for count in threads:
                torch.set_num_threads(count)
                factors = measured(plain, store, ids, name, decay)
                low, median, high = statistics.quantiles(factors, n=4)
                found = {"store": name, "tokens": tokens, "threads": count}
                yield found | {"low": low, "factor": median, "high": high}
            store.close()


def main(
    capture: Path,
    stores: Annotated[str, typer.Option()] = "clusters",
    tokens: Annotated[str, typer.Option(help="Sizes, such as 64k,1M.")] = "1M",
    threads: Annotated[str, typer.Option(help="Numbers of threads.")] = "1,2",
    decay: Annotated[float | None, typer.Option(help="Default: the model's.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write rows there, as JSON.")] = None,
) -> None:
    """Measure stores."""
    table = Table("store", "tokens", "threads", "time of a step against no memory")
    found, sizes = [], parse_sizes(tokens, "--tokens")
    counts = parse_sizes(threads, "--threads")
    for row in rows(parse_stores(stores), Capture.open(capture), sizes, counts, decay):
        found.append(row)
        factor = f"{row['factor']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        table.add_row(row["store"], f"{row['tokens']:,}", str(row["threads"]), factor)
        print(row, flush=True)
        if report is not None:
            write(report, found)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
