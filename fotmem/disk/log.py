"""The log: all rows in the order of reading. Everything else can be rebuilt from it."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fotmem.disk.array_group import ArrayGroup, Column, Location
from fotmem.disk.chunk_cache import ChunkCache
from fotmem.disk.chunk_reader import Chunk, read_chunks
from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.log_entries import BLOCKS, PartEntry
from fotmem.disk.row_lookup import look_up_rows
from fotmem.disk.storage import Storage

AT_ONCE = 2**25
"""Bytes that are read at the same time, or more by a block."""
CHUNK = 16
"""Most rows of a chunk: values are looked up one by one."""


class LogPart(ArrayGroup):
    """The columns of up to ``BLOCKS`` blocks of rows, from row `first` on."""

    def __init__(
        self, location: Location, *, first: int, block: int, columns: Sequence[Column]
    ) -> None:
        super().__init__(location, first=first)
        self.block = block
        """Rows of a block."""
        self.written = 0
        """Blocks before the end of the last block that was written."""
        self.sealed = False
        """Whether an earlier process wrote it: nothing is added to it."""
        chunk = min(CHUNK, block)
        self.columns = {
            column.name: self.new_array(
                column,
                BLOCKS * block,
                chunk_rows=chunk,
                chunks_per_shard=block // chunk,
                heads_per_shard=column.heads,
            )
            for column in columns
        }

    def entry(self) -> PartEntry:
        """Describe it for the manifest."""
        return PartEntry(name=self.name, generation=self.generation, first=self.first)

    def arrays(self) -> tuple[ChunkedArray, ...]:
        return tuple(self.columns.values())

    def files(self) -> dict[str, set[str]]:
        return {array.path: array.files(self.written) for array in self.arrays()}

    @property
    def end(self) -> int:
        """The row after its last one, when it is full."""
        return self.first + BLOCKS * self.block

    def write(self, row: int, tensors: Sequence[Tensor]) -> None:
        """Write a block, ``[heads, block, *rest]`` of each column."""
        number = (row - self.first) // self.block
        if not self.written:
            for array in self.arrays():
                array.write_description()
        self.written = max(self.written, number + 1)
        for array, tensor in zip(self.arrays(), tensors, strict=True):
            array.write(0, number, tensor)

    def read(self, column: str, first: int) -> Tensor:
        """Read a block of keys or values, ``[H, block, D]``."""
        return self.block_of(column, first, read_chunks(self.chunks_of(column, first)))

    def chunks_of(self, column: str, first: int) -> list[Chunk]:
        """List the chunks of a block, head by head."""
        array = self.columns[column]
        start = (first - self.first) // array.chunk_rows
        count = self.block // array.chunk_rows
        return [
            (array, head * array.chunks_per_head + number)
            for head in range(array.heads)
            for number in range(start, start + count)
        ]

    def block_of(self, column: str, first: int, read: Mapping[Chunk, bytes]) -> Tensor:
        """Put a block together from chunks that were read: ``[heads, block, *rest]``."""
        array = self.columns[column]
        rows = array.tensor([read[chunk] for chunk in self.chunks_of(column, first)])
        return rows.reshape(array.heads, self.block, *array.rest)


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

    def beginning(self, row: int) -> "Log":
        """Share the parts that end at a row or before it."""
        twin = Log(self.block)
        ends = [*(part.first for part in self.parts[1:]), self.end]
        for part, end in zip(self.parts, ends, strict=False):
            if end <= row:
                twin.parts, twin.end = (*twin.parts, part), end
        return twin

    def part_of(self, row: int) -> LogPart:
        """Return the part that holds a row."""
        parts = self.parts
        return parts[bisect_right([part.first for part in parts], row) - 1]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, LogPart]]:
        """Yield the first row and the part of each block with rows from `start` to `stop`."""
        for row in range(start // self.block * self.block, stop, self.block):
            yield row, self.part_of(row)

    def read(
        self, columns: Sequence[str], start: int, stop: int
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield the first row of each such block, and its rows ``[heads, block, *rest]``.

        Several blocks are read at the same time.
        """
        if start >= stop:
            return
        blocks = list(self.blocks(start, stop))
        step = 1 + AT_ONCE // self._block_bytes(columns)
        for some in (blocks[n : n + step] for n in range(0, len(blocks), step)):
            read = read_chunks(
                chunk
                for row, part in some
                for name in columns
                for chunk in part.chunks_of(name, row)
            )
            for row, part in some:
                yield row, tuple(part.block_of(name, row, read) for name in columns)

    def _block_bytes(self, columns: Sequence[str]) -> int:
        """Return the bytes of these columns of a block."""
        arrays = [self.parts[0].columns[name] for name in columns]
        return sum(array.stride * array.heads * self.block // array.chunk_rows for array in arrays)

    def write(
        self,
        first: int,
        tensors: Sequence[Tensor],
        *,
        storage: Storage | None,
        new_part: Callable[[int], LogPart],
    ) -> None:
        """Write a whole block ``[heads, block, *rest]`` from row `first` on, unless it is there.

        Parameters
        ----------
        storage : Storage or None
            Where new parts lie; a part that lies elsewhere belongs to another store.
        new_part : callable
            Begins a part with the row that it gets.
        """
        end = first + self.block
        if end <= self.end:
            return
        last = self.parts[-1] if self.parts else None
        if last is None or last.storage is not storage or last.sealed or first >= last.end:
            part = new_part(first)
            part.write(first, tensors)
            self.parts = (*self.parts, part)
        else:
            last.write(first, tensors)
        self.end = end

    def look_up(
        self, cache: ChunkCache, column: str, heads: Tensor, rows: Tensor, limit: int
    ) -> Tensor:
        """Look up rows ``[n]`` of heads ``[n]`` in a column: ``[n, *rest]``."""
        firsts = torch.tensor([part.first for part in self.parts])
        part = torch.bucketize(rows, firsts, right=True) - 1
        arrays = [part.columns[column] for part in self.parts]
        return look_up_rows(cache, arrays, part, heads, rows - firsts[part], limit)

    def forget(self, first: int) -> None:
        """Drop the parts that end before a row."""
        self.parts = tuple(part for part in self.parts if part.end > first)
