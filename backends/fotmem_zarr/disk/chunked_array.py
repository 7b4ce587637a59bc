"""Rows of all heads in one sharded zarr array, read and written chunk by chunk."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from fotmem.errors import StorageError
from fotmem_zarr.disk.place import Place, Range

CRC = 4
"""Bytes of a checksum."""
INTACT = 0x48674BC7
"""The crc32c of anything that is followed by its own."""
ABSENT = 2**64 - 1

NUMPY = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "uint16",  # its bits: zarr has no bfloat16
    torch.int32: "int32",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """An array ``[H, rows, *rest]`` of zarr v3 in chunks of one head, with crc32c, sharded.

    The chunks of a shard lie in order, so that where each one is needs no look at the index of
    the shard, and neighbours are read at once. Behind each chunk and its own checksum, where zarr
    does not look, stands a second one that covers its place, too: the array, its shape, its
    generation, the head, and the number of the chunk. A right chunk in a wrong place is damage.
    """

    place: Place
    path: str
    generation: str
    """Of the part, segment or piece that it belongs to."""
    first: int
    """The first row of that."""
    heads: int
    rows: int
    rest: tuple[int, ...]
    dtype: torch.dtype
    chunk_rows: int
    chunks_per_shard: int = 1
    heads_per_shard: int = 1

    @cached_property
    def chunk_bytes(self) -> int:
        """Of one chunk, without its checksums."""
        return self.chunk_rows * math.prod(self.rest) * self.dtype.itemsize

    @cached_property
    def stride(self) -> int:
        """Bytes from one chunk of a shard to the next."""
        return self.chunk_bytes + 2 * CRC

    @cached_property
    def _identity(self) -> int:
        """The crc32c of what tells this array from all others, of any version and any store."""
        told = (self.path, self.generation, self.first, self.heads, *self.rest, self.dtype)
        layout = (self.chunk_rows, self.chunks_per_shard, self.heads_per_shard)
        return int(google_crc32c.value(repr((*told, *layout)).encode()))

    def files(self, shards: int | None = None) -> set[str]:
        """Name the files that belong here: `shards` of each head (default: all)."""
        if shards is None:
            shards = -(-self.chunks_per_head // self.chunks_per_shard)
        groups = range(-(-self.heads // self.heads_per_shard))
        names = {self._name(group, shard) for group in groups for shard in range(shards)}
        return {"zarr.json", *names}

    @property
    def chunks_per_head(self) -> int:
        """Of one head."""
        return -(-self.rows // self.chunk_rows)

    def describe(self) -> None:
        """Write ``zarr.json``."""
        self.place.write(f"{self.path}/zarr.json", json.dumps(self.description()).encode())

    def description(self) -> dict[str, Any]:
        """Describe it as zarr v3 does."""
        shard = (self.heads_per_shard, self.chunk_rows * self.chunks_per_shard, *self.rest)
        chunk = (1, self.chunk_rows, *self.rest)
        shape = (self.heads, self.rows, *self.rest)
        return _metadata(shape, chunk, shard, NUMPY[self.dtype])

    def write(self, head: int, shard: int, data: Tensor) -> None:
        """Write a shard of ``[heads_per_shard, rows, *rest]``; fewer rows only of a single head."""
        tiles = data.contiguous().unflatten(1, (-1, self.chunk_rows)).flatten(0, 1)
        parts, index = [], np.full((self.heads_per_shard * self.chunks_per_shard, 2), ABSENT, "<u8")
        per_head = self.chunks_per_shard
        for number, tile in enumerate(tiles):
            raw = tile.flatten().view(torch.uint8).numpy().tobytes()
            checksum = _checksum(raw)
            chunk = shard * per_head + number % per_head
            parts += [raw, checksum, self._placed(head + number // per_head, chunk, checksum)]
            index[number] = number * self.stride, len(raw) + CRC
        parts += [index.tobytes(), _checksum(index.tobytes())]
        self.place.write(self._file(head // self.heads_per_shard, shard), b"".join(parts))

    def load(self, numbers: Iterable[int]) -> Tensor:
        """Read chunks, numbered through all heads: ``[n, chunk_rows, *rest]``."""
        return side_by_side(
            self, list(read_chunks([(self, number) for number in numbers]).values())
        )

    def read_all(self) -> Tensor:
        """Read everything, ``[H, rows, *rest]``; for small arrays."""
        whole = self.load(range(self.heads * self.chunks_per_head))
        return whole.reshape(self.heads, -1, *self.rest)[:, : self.rows]

    def locate(self, number: int) -> tuple[str, int]:
        """Find a chunk: its file, and its place there."""
        head, number = divmod(number, self.chunks_per_head)
        shard, number = divmod(number, self.chunks_per_shard)
        group, head = divmod(head, self.heads_per_shard)
        return self._file(group, shard), head * self.chunks_per_shard + number

    def verify(self, number: int, data: bytes, file: str, *, missing: bool) -> None:
        """Raise `StorageError` unless this is the chunk with its checksums."""
        head, number = divmod(number, self.chunks_per_head)
        checksum, placed = data[-2 * CRC : -CRC], data[-CRC:]
        if missing:
            what = "is missing"
        elif len(data) < self.stride:
            what = f"is truncated (expected {self.stride} bytes, got {len(data)})"
        elif google_crc32c.value(data) != google_crc32c.extend(INTACT, placed):
            what = "is damaged (its checksum differs)"
        elif self._placed(head, number, checksum) != placed:
            what = "is another one's (its checksum is of another place, version or store)"
        else:
            return
        raise StorageError(
            f"chunk {number} of head {head} of {self.path} {what}, in file {file} of "
            f"{self.place.name}; {self.cure()}"
        )

    def _file(self, group: int, shard: int) -> str:
        return f"{self.path}/{self._name(group, shard)}"

    def _name(self, group: int, shard: int) -> str:
        return f"c.{group}.{shard}{'.0' * len(self.rest)}"

    def _placed(self, head: int, chunk: int, checksum: bytes) -> bytes:
        """Compute the checksum that covers a chunk's own, and its place."""
        place = head.to_bytes(8, "little") + chunk.to_bytes(8, "little") + checksum
        return int(google_crc32c.extend(self._identity, place)).to_bytes(CRC, "little")

    def cure(self) -> str:
        """Say what helps where a file is damaged."""
        if self.path.startswith("segments/") and not self.place.read_only:
            return "remove its folder 'segments' and open the store again: it is made anew"
        return "restore the store from a copy"


Chunk = tuple[Rows, int]
"""One chunk of an array, by its number through all heads."""


class _Run(NamedTuple):
    """Chunks that lie one behind the other in a file, from the place `first` on."""

    rows: Rows
    file: str
    first: int
    numbers: list[int]

    def range(self) -> Range:
        size = self.rows.stride
        return Range(self.file, self.first * size, (self.first + len(self.numbers)) * size)

    def cut(self, data: bytes | None) -> Iterator[tuple[Chunk, bytes]]:
        size = self.rows.stride
        for i, number in enumerate(self.numbers):
            part = b"" if data is None else data[i * size : (i + 1) * size]
            self.rows.verify(number, part, self.file, missing=data is None)
            yield (self.rows, number), part


def read_chunks(chunks: Iterable[Chunk]) -> dict[Chunk, bytes]:
    """Read chunks with their checksums, all of a place in one call; neighbours at once."""
    runs: dict[Place, list[_Run]] = {}
    for rows, number in chunks:
        file, place = rows.locate(number)
        here = runs.setdefault(rows.place, [])
        if here and here[-1].file == file and here[-1].first + len(here[-1].numbers) == place:
            here[-1].numbers.append(number)
        else:
            here.append(_Run(rows, file, place, [number]))
    read: dict[Chunk, bytes] = {}
    for where, some in runs.items():
        found = where.read([run.range() for run in some])
        for run, data in zip(some, found, strict=True):
            read.update(run.cut(data))
    return read


def side_by_side(like: Rows, chunks: Sequence[bytes]) -> Tensor:
    """Put chunks with their checksums into a tensor, ``[n, chunk_rows, *rest]``."""
    data = torch.frombuffer(bytearray().join(chunks), dtype=like.dtype).view(len(chunks), -1)
    rows = data[:, : -2 * CRC // like.dtype.itemsize]
    return rows.view(len(chunks), like.chunk_rows, *like.rest)


def _checksum(raw: bytes) -> bytes:
    return int(google_crc32c.value(raw)).to_bytes(CRC, "little")


def _metadata(
    shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int], dtype: str
) -> dict[str, Any]:
    """Describe an array as zarr v3 does; asking zarr to would take 5 ms."""
    checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": list(chunks),
        "codecs": checked,
        "index_codecs": checked,
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shards)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
    }
