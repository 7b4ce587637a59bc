"""All rows in the order of reading, on disk: what everything else is derived from."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fotmem_zarr.budget import BLOCKS
from fotmem_zarr.disk.chunk_cache import Cache
from fotmem_zarr.disk.chunked_array import Rows
from fotmem_zarr.disk.lookup import take
from fotmem_zarr.disk.manifest import PartEntry
from fotmem_zarr.disk.owned import Owned, Spot
from fotmem_zarr.disk.place import Place
from fotmem_zarr.unwritten import Block

CHUNK = 16
"""Rows of a chunk, at most: values are looked up one by one."""


class Part(Owned):
    """Keys and values of up to ``BLOCKS`` blocks of rows, from row `first` on."""

    def __init__(
        self, spot: Spot, *, first: int, block: int, like: tuple[int, int, torch.dtype]
    ) -> None:
        super().__init__(spot)
        self.first = first
        self.block = block
        self.written = 0
        """Blocks of it that there is room for up to the last one written."""
        self.sealed = False
        """Whether an earlier process wrote it: nothing is added to it."""
        heads, head_dim, dtype = like
        chunk = min(CHUNK, block)
        self.keys, self.values = (
            Rows(
                place=self.place,
                path=f"{self.path}/{name}",
                generation=self.generation,
                first=first,
                heads=heads,
                rows=BLOCKS * block,
                rest=(head_dim,),
                dtype=dtype,
                chunk_rows=chunk,
                chunks_per_shard=block // chunk,
                heads_per_shard=heads,
            )
            for name in ("keys", "values")
        )

    def entry(self) -> PartEntry:
        """Describe it for the manifest."""
        return PartEntry(name=self.name, generation=self.generation, first=self.first)

    def arrays(self) -> tuple[Rows, Rows]:
        return self.keys, self.values

    def files(self) -> dict[str, set[str]]:
        return {rows.path: rows.files(self.written) for rows in self.arrays()}

    @property
    def end(self) -> int:
        """The row behind its last one, when full."""
        return self.first + BLOCKS * self.block

    def write(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Write a block, ``[H, block, D]`` each."""
        number = (row - self.first) // self.block
        if not self.written:
            self.keys.describe()
            self.values.describe()
        self.written = max(self.written, number + 1)
        self.keys.write(0, number, keys)
        self.values.write(0, number, values)

    def read(self, rows: Rows, first: int) -> Tensor:
        """Read a block of keys or values, ``[H, block, D]``."""
        start = (first - self.first) // rows.chunk_rows
        count = self.block // rows.chunk_rows
        chunks = [
            head * rows.chunks_per_head + number
            for head in range(rows.heads)
            for number in range(start, start + count)
        ]
        return rows.load(chunks).reshape(rows.heads, self.block, *rows.rest)


class PartMaker(Protocol):
    """Begins parts of the log in a place of its own."""

    place: Place | None

    def new_part(self, first: int) -> Part:
        """Begin a part with row `first`."""


class Log:
    """Parts one after the other. Grows at its end, by whole blocks; forgets at its beginning."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.parts: tuple[Part, ...] = ()
        self.end = 0
        """Rows that were written."""

    def copy(self) -> "Log":
        """Share what was written; what follows goes to parts of its own."""
        twin = Log(self.block)
        twin.parts, twin.end = self.parts, self.end
        return twin

    def part_of(self, row: int) -> Part:
        """Find the part that holds a row."""
        parts = self.parts
        return parts[bisect_right([part.first for part in parts], row) - 1]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, Part]]:
        """Yield the first row and the part of all blocks with rows from `start` to `stop`."""
        for row in range(start // self.block * self.block, stop, self.block):
            yield row, self.part_of(row)

    def write(self, block: Block, maker: "PartMaker") -> None:
        """Write a whole block, unless it is there."""
        if block.end <= self.end:
            return
        last = self.parts[-1] if self.parts else None
        ours = (
            last is not None
            and last.place is maker.place
            and not last.sealed
            and block.first < last.end
        )
        part = last if last is not None and ours else maker.new_part(block.first)
        part.write(block.first, block.keys, block.values)
        if not ours:
            self.parts = (*self.parts, part)
        self.end = block.end

    def take(self, cache: Cache, which: str, heads: Tensor, rows: Tensor, limit: int) -> Tensor:
        """Look up "keys" or "values" of rows ``[n]`` of heads ``[n]``: ``[n, D]``."""
        firsts = torch.tensor([part.first for part in self.parts])
        which_part = torch.bucketize(rows, firsts, right=True) - 1
        arrays: list[Rows] = [getattr(part, which) for part in self.parts]
        return take(cache, arrays, which_part, heads, rows - firsts[which_part], limit)

    def forget(self, first: int) -> None:
        """Drop the parts that end before a row."""
        self.parts = tuple(part for part in self.parts if part.end > first)
