"""The cost of the growing `zarr` store: time to add and to search, chunks read, memory.

    python -m benchmarks.disk --tokens 1048576 --ram 256MiB

Keys lie around 1,000 random centres, 8 heads of 64 dimensions, 2,048 added at a time. Linux only.
"""

import time
from statistics import median
from typing import Annotated, cast

import psutil
import torch
import typer
from torch import Tensor

from benchmarks.growth import peak
from fotmem import create_store
from fotmem_zarr.store import ZarrStore

HEADS, DIM, STEP, TOP_K = 8, 64, 2048, 32
MIB = 2**20


class RandomRows:
    """Keys in clusters, like those of attention; buffers are reused."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.centres = 2 * torch.randn(HEADS, 1000, DIM, generator=self.random)
        self.keys, self.values = torch.zeros(2, HEADS, STEP, DIM)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw the next keys and values, ``[H, STEP, D]``."""
        self.keys.normal_(generator=self.random)
        for head in range(HEADS):
            which = torch.randint(1000, (STEP,), generator=self.random)
            self.keys[head] += self.centres[head].index_select(0, which)
        return self.keys, self.values.normal_(generator=self.random)

    def query(self) -> Tensor:
        """Draw one query for each head, near a centre."""
        which = torch.randint(1000, (1,), generator=self.random)
        noise = torch.randn(HEADS, 1, DIM, generator=self.random)
        return 0.7 * self.centres[:, which] + noise


def report(store: ZarrStore, rows: RandomRows, adds: list[float], base: int) -> None:
    """Print a line about the store at this size."""
    probed, searches = store.chunks_probed, []
    for _ in range(20):
        query, start = rows.query(), time.perf_counter()
        store.search(query, TOP_K)
        searches.append(time.perf_counter() - start)
    probed = (store.chunks_probed - probed) // (20 * HEADS)
    print(
        f"{store.next_id:,} tokens: adding {sum(adds):.0f} s, longest {max(adds):.2f} s, median "
        f"{median(adds):.2f} s; a query per head {1000 * median(searches):.0f} ms, reads {probed} "
        f"of {store.chunks // HEADS:,} chunks; memory {(peak() - base) // MIB} MiB",
        flush=True,
    )


def main(
    tokens: Annotated[int, typer.Option()] = 65_536, ram: Annotated[str, typer.Option()] = "64MiB"
) -> None:
    """Measure up to `tokens` tokens, with `ram` of budget."""
    torch.set_num_threads(1)
    rows, adds = RandomRows(), list[float]()
    rows.draw()
    with create_store(
        "zarr", num_heads=HEADS, head_dim=DIM, ram="8MiB"
    ) as warm:  # imports what is needed
        for _ in range(4):
            warm.add(*rows.draw())
        warm.search(rows.query(), TOP_K)
    base = psutil.Process().memory_info().rss
    with cast(ZarrStore, create_store("zarr", num_heads=HEADS, head_dim=DIM, ram=ram)) as store:
        while store.next_id < tokens:
            keys, values = rows.draw()
            start = time.perf_counter()
            store.add(keys, values)
            adds.append(time.perf_counter() - start)
            if store.next_id in (10_240, 65_536, 102_400, 262_144, 1_048_576, tokens):
                report(store, rows, adds, base)


if __name__ == "__main__":
    typer.run(main)
