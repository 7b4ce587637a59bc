"""Reads chunks of several arrays together, and verifies their checksums."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.storage import Storage

Chunk = tuple[ChunkedArray, int]
"""A chunk of an array, by its number across all heads."""


class _ChunkRun(NamedTuple):
    """Consecutive chunks of a file, from number `first` of the file on."""

    array: ChunkedArray
    file: str
    first: int
    numbers: list[int]

    def range(self) -> ByteRange:
        size = self.array.stride
        return ByteRange(self.file, self.first * size, (self.first + len(self.numbers)) * size)

    def split(self, data: bytes | None) -> Iterator[tuple[Chunk, bytes]]:
        size = self.array.stride
        for i, number in enumerate(self.numbers):
            part = b"" if data is None else data[i * size : (i + 1) * size]
            self.array.verify(number, part, self.file, missing=data is None)
            yield (self.array, number), part


def read_chunks(chunks: Iterable[Chunk]) -> dict[Chunk, bytes]:
    """Read chunks with their checksums: one call per storage, neighbours at once.

    Raises
    ------
    StorageError
        A chunk is missing, truncated, damaged or of another place; the message names it.
    """
    runs: dict[Storage, list[_ChunkRun]] = {}
    for array, number in chunks:
        file, place = array.locate(number)
        here = runs.setdefault(array.storage, [])
        if here and here[-1].file == file and here[-1].first + len(here[-1].numbers) == place:
            here[-1].numbers.append(number)
        else:
            here.append(_ChunkRun(array, file, place, [number]))
    read: dict[Chunk, bytes] = {}
    for storage, some in runs.items():
        found = storage.read([run.range() for run in some])
        for run, data in zip(some, found, strict=True):
            read.update(run.split(data))
    return read


def load_chunks(array: ChunkedArray, numbers: Iterable[int]) -> Tensor:
    """Read chunks of one array, numbered across all heads: ``[n, chunk_rows, *rest]``."""
    return array.tensor(list(read_chunks([(array, number) for number in numbers]).values()))


def load_arrays(arrays: Sequence[ChunkedArray]) -> list[Tensor]:
    """Read whole arrays at once, ``[H, rows, *rest]`` each; for small ones."""
    numbers = {array: range(array.heads * array.chunks_per_head) for array in arrays}
    read = read_chunks((array, number) for array in arrays for number in numbers[array])
    wholes = [array.tensor([read[array, n] for n in numbers[array]]) for array in arrays]
    return [
        whole.reshape(array.heads, -1, *array.rest)[:, : array.rows]
        for array, whole in zip(arrays, wholes, strict=True)
    ]
