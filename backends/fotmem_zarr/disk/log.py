"""The log: all rows in the order of reading. Everything else can be rebuilt from it."""

from bisect import bisect_right
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fotmem_zarr.disk.array_group import ArrayGroup, LayerShape, Location
from fotmem_zarr.disk.chunk_cache import ChunkCache
from fotmem_zarr.disk.chunk_reader import load_chunks
from fotmem_zarr.disk.chunked_array import ChunkedArray
from fotmem_zarr.disk.limits import BLOCKS
from fotmem_zarr.disk.manifest import PartEntry
from fotmem_zarr.disk.row_lookup import look_up_rows
from fotmem_zarr.disk.storage import Storage

CHUNK = 16
"""Most rows of a chunk: values are looked up one by one."""


class LogPart(ArrayGroup):
    """Keys and values of up to ``BLOCKS`` blocks of rows, from row `first` on."""

    def __init__(self, location: Location, *, first: int, block: int, layer: LayerShape) -> None:
        super().__init__(location, first=first, layer=layer)
        self.block = block
        """Rows of a block."""
        self.written = 0
        """Blocks before the end of the last block that was written."""
        self.sealed = False
        """Whether an earlier process wrote it: nothing is added to it."""
        heads, head_dim, dtype = layer
        chunk = min(CHUNK, block)
        self.keys, self.values = (
            self._array(
                name,
                BLOCKS * block,
                (head_dim,),
                dtype,
                chunk_rows=chunk,
                chunks_per_shard=block // chunk,
                heads_per_shard=heads,
            )
            for name in ("keys", "values")
        )

    def entry(self) -> PartEntry:
        """Describe it for the manifest."""
        return PartEntry(name=self.name, generation=self.generation, first=self.first)

    def arrays(self) -> tuple[ChunkedArray, ChunkedArray]:
        return self.keys, self.values

    def files(self) -> dict[str, set[str]]:
        return {array.path: array.files(self.written) for array in self.arrays()}

    @property
    def end(self) -> int:
        """The row after its last one, when it is full."""
        return self.first + BLOCKS * self.block

    def write(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Write a block, ``[H, block, D]`` each."""
        number = (row - self.first) // self.block
        if not self.written:
            self.keys.write_description()
            self.values.write_description()
        self.written = max(self.written, number + 1)
        self.keys.write(0, number, keys)
        self.values.write(0, number, values)

    def read(self, array: ChunkedArray, first: int) -> Tensor:
        """Read a block of keys or values, ``[H, block, D]``."""
        start = (first - self.first) // array.chunk_rows
        count = self.block // array.chunk_rows
        chunks = [
            head * array.chunks_per_head + number
            for head in range(array.heads)
            for number in range(start, start + count)
        ]
        return load_chunks(array, chunks).reshape(array.heads, self.block, *array.rest)


class Log:
    """Parts in order. The log grows at its end, by whole blocks, and forgets at its beginning."""

    def __init__(self, block: int) -> None:
        self.block = block
        """Rows of a block."""
        self.parts: tuple[LogPart, ...] = ()
        self.end = 0
        """Rows that were written."""

    def copy(self) -> "Log":
        """Share what was written; what follows goes to new parts."""
        twin = Log(self.block)
        twin.parts, twin.end = self.parts, self.end
        return twin

    def part_of(self, row: int) -> LogPart:
        """Return the part that holds a row."""
        parts = self.parts
        return parts[bisect_right([part.first for part in parts], row) - 1]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, LogPart]]:
        """Yield the first row and the part of each block with rows from `start` to `stop`."""
        for row in range(start // self.block * self.block, stop, self.block):
            yield row, self.part_of(row)

    def write(
        self,
        first: int,
        keys: Tensor,
        values: Tensor,
        *,
        storage: Storage | None,
        new_part: Callable[[int], LogPart],
    ) -> None:
        """Write a whole block ``[H, block, D]`` from row `first` on, unless it is there.

        Parameters
        ----------
        storage : Storage or None
            Where new parts lie; a part that lies elsewhere belongs to another store.
        new_part : callable
            Begins a part with the row that it gets.
        """
        end = first + keys.shape[1]
        if end <= self.end:
            return
        last = self.parts[-1] if self.parts else None
        if last is None or last.storage is not storage or last.sealed or first >= last.end:
            part = new_part(first)
            part.write(first, keys, values)
            self.parts = (*self.parts, part)
        else:
            last.write(first, keys, values)
        self.end = end

    def look_up(
        self, cache: ChunkCache, which: str, heads: Tensor, rows: Tensor, limit: int
    ) -> Tensor:
        """Look up "keys" or "values" of rows ``[n]`` of heads ``[n]``: ``[n, D]``."""
        firsts = torch.tensor([part.first for part in self.parts])
        part = torch.bucketize(rows, firsts, right=True) - 1
        arrays: list[ChunkedArray] = [getattr(part, which) for part in self.parts]
        return look_up_rows(cache, arrays, part, heads, rows - firsts[part], limit)

    def forget(self, first: int) -> None:
        """Drop the parts that end before a row."""
        self.parts = tuple(part for part in self.parts if part.end > first)
