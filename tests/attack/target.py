"""The persistent store that is attacked, its rows, and what it must answer."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fotmem import create_store
from fotmem.stores import MemoryStore
from fotmem.testing.store.expectations import expect_attention, expect_rows, expect_state
from fotmem.testing.store.hits import expect_exact, expect_sound
from fotmem.testing.store.naive import draw, naive_attention

HEADS, DIM, FIRST = 2, 8, 70
ROWS, EARLIER, FORGOTTEN, MOST = 1500, 1240, 166, 4000
MANIFEST = "zarr.json"


@dataclass(frozen=True)
class Target:
    """How to open the store that is attacked."""

    store: str = "zarr"
    options: dict[str, Any] = field(default_factory=lambda: {"ram": 2**18, "nprobe": 10_000})
    exact: bool = True
    """Whether it finds the best hits with these options."""
    zips: bool = True
    """Whether it opens a zip file of its directory."""

    def open(self, directory: Path | None) -> MemoryStore:
        """Open the store of a directory, or begin one there."""
        return create_store(
            self.store, num_heads=HEADS, head_dim=DIM, directory=directory, **self.options
        )

    def write(self, directory: Path, *, seed: int = 0, earlier: Path | None = None) -> None:
        """Write rows in many steps, so in all kinds of files; `earlier` gets a copy midway."""
        keys, values = data(seed)
        with self.open(directory) as store:
            store.start_at(FIRST)
            for start in range(0, ROWS, 155):
                if start == EARLIER and earlier is not None:
                    shutil.copytree(directory, earlier)
                end = min(start + 155, ROWS)
                store.add(keys[:, start:end], values[:, start:end])
                if start == 620:
                    store.forget(FORGOTTEN)
                store.flush()

    def expect(
        self,
        store: MemoryStore,
        *,
        rows: int = ROWS,
        forgotten: int = FORGOTTEN,
        first: int = FIRST,
    ) -> None:
        """Expect a store to hold these rows bit for bit, and to find them."""
        every, their_values = data()
        keys, values = every[:, forgotten:rows], their_values[:, forgotten:rows]
        oldest = first + forgotten
        expect_state(store, first_id=oldest, next_id=first + rows)
        ids = torch.arange(oldest, first + rows).expand(HEADS, 1, -1)
        expect_rows(store.keys(ids), ids, keys, "keys", first_id=oldest)
        expect_rows(store.values(ids), ids, values, "values", first_id=oldest)
        queries = draw(HEADS, 5, DIM, seed=2)
        expected = expect_exact if self.exact else expect_sound
        expected(store.search(queries, 12), queries, keys, 12, first_id=oldest)
        dense = store.attend(queries, top_k=None, scale=0.25)
        expect_attention(dense, naive_attention(queries, keys, values, 0.25), torch.float32)

    def look(self, directory: Path) -> None:
        """Open a directory, and expect what `write` wrote."""
        with self.open(directory) as store:
            self.expect(store)

    def read_on(
        self, store: MemoryStore, *, rows: int, forgotten: int, upto: int, first: int = FIRST
    ) -> None:
        """Add the next rows, and expect the answers of a store that was never attacked."""
        if not rows:
            store.start_at(first)
        keys, values = data()
        for start in range(rows, upto, 155):
            end = min(start + 155, upto)
            store.add(keys[:, start:end], values[:, start:end])
        store.flush()
        self.expect(store, rows=max(rows, upto), forgotten=forgotten, first=first)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keys and values ``[H, MOST, D]``; stores hold the first of them."""
    if seed not in _DRAWN:
        _DRAWN[seed] = (
            draw(HEADS, MOST, DIM, seed=2 * seed + 10),
            draw(HEADS, MOST, DIM, seed=2 * seed + 11),
        )
    return _DRAWN[seed]


_DRAWN: dict[int, tuple[Tensor, Tensor]] = {}


def files_of(directory: Path) -> list[str]:
    """List all files below a directory, sorted, with slashes."""
    found = directory.rglob("*")
    return sorted(path.relative_to(directory).as_posix() for path in found if path.is_file())


def strays(directory: Path) -> list[str]:
    """List partial files, and folders that the manifest does not name."""
    left = [name for name in files_of(directory) if ".partial" in name]
    if (directory / MANIFEST).is_file():
        text = (directory / MANIFEST).read_text(encoding="utf-8")
        folders = (path for path in directory.glob("*/*") if path.is_dir())
        left += [f"{path.parent.name}/{path.name}" for path in folders if path.name not in text]
    return left
