"""Memories that are kept in directories, to measure how they are written and opened."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.table import Table

import fotmem
from fotmem.directory.facts import DocumentEntry
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.memory import reading, saving
from fotmem.stores import MemoryStore

LAYERS = [17, 18, 20, 21, 23]
STEP = 8192
ROWS: list[tuple[str, ...]] = []
"""What was measured, as rows of `table`."""


def random_memory(folder: Path, model: Any, tokens: int) -> Path:
    """Write random keys and values of a model's shape, as if it had read so many tokens."""
    with fotmem.attach(model, layers=LAYERS) as memory:
        memory.save(folder)
        stores = memory.stores
        memory.close()
    directory = MemoryDirectory.open(folder, writable=True)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, tokens, STEP):
        ids = torch.arange(start, min(start + STEP, tokens))
        directory.append(ids % 50, ids, ids + 1, {
            layer: (drawn(store, len(ids), generator), drawn(store, len(ids), generator))
            for layer, store in stores.items()
        })  # fmt: skip
        directory.commit([document(start + len(ids))])  # what is committed is not in RAM
    directory.close()
    return folder


def drawn(store: MemoryStore, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw keys or values ``[H, n, D]``."""
    return torch.randn(store.num_heads, count, store.head_dim, generator=generator)


def document(tokens: int) -> DocumentEntry:
    """Describe a text of so many tokens."""
    return DocumentEntry(
        name="random",
        first=0,
        stop=tokens,
        sha256="0" * 64,
        characters=tokens,
        read_at="2026-01-01T00:00:00Z",
        is_complete=True,
        is_removed=False,
    )


@contextmanager
def commits_timed() -> Iterator[list[float]]:
    """Collect the seconds of each commit in the block."""
    seconds, commit = list[float](), saving.commit

    def timed(*given: Any) -> None:
        begin = time.perf_counter()
        commit(*given)
        seconds.append(time.perf_counter() - begin)

    with mock.patch.object(saving, "commit", timed), mock.patch.object(reading, "commit", timed):
        yield seconds


def note(what: str, tokens: int, seconds: list[float], more: str) -> None:
    """Remember a figure for the table."""
    times = [f"{each:.2f}" for each in sorted(seconds)]
    middle = times[len(times) // 2]
    ROWS.append((what, f"{tokens:,}", f"{middle} ({times[0]} to {times[-1]})", more))


def table() -> Table:
    """Return what was noted."""
    found = Table("", "tokens", "seconds (least to most)", "", title="reading against opening")
    for row in ROWS:
        found.add_row(*row)
    return found
