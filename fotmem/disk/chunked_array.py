"""One array of a store on disk: sharded zarr, in chunks whose checksums cover their place."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from fotmem.disk.storage import Storage
from fotmem.disk.zarr_metadata import array_description
from fotmem.errors import StorageError

CRC = 4
"""Bytes of a checksum."""
INTACT = 0x48674BC7
"""The crc32c of any bytes that are followed by their own crc32c."""
ABSENT = 2**64 - 1

NUMPY = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "uint16",  # its bits: zarr has no bfloat16
    torch.int32: "int32",
    torch.uint8: "uint8",
}


class DamagedChunkError(StorageError):
    """A chunk is missing, truncated, damaged or of another place; `array` is what it belongs to."""

    def __init__(self, message: str, array: "ChunkedArray") -> None:
        super().__init__(message)
        self.array = array


@dataclass(frozen=True, kw_only=True, eq=False)
class ChunkedArray:
    """An array ``[H, rows, *rest]`` of zarr v3 in chunks of one head, with crc32c, sharded.

    The chunks of a shard lie in order. So a chunk is found without the shard's index, and
    neighbouring chunks are read at once.

    After each chunk and its checksum follows a second checksum, where zarr does not look. It covers
    the first checksum and the chunk's place: array, shape, generation, head and chunk number. So an
    intact chunk in a wrong place is recognised as damage.
    """

    storage: Storage
    path: str
    generation: str
    """Of the group that the array belongs to."""
    first: int
    """First row of that group."""
    heads: int
    rows: int
    rest: tuple[int, ...]
    dtype: torch.dtype
    chunk_rows: int
    chunks_per_shard: int = 1
    heads_per_shard: int = 1

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk without its checksums."""
        return self.chunk_rows * math.prod(self.rest) * self.dtype.itemsize

    @cached_property
    def stride(self) -> int:
        """Bytes from one chunk of a shard to the next."""
        return self.chunk_bytes + 2 * CRC

    @cached_property
    def _identity(self) -> int:
        """The crc32c of what distinguishes this array from all others, of any store and version."""
        facts = (self.path, self.generation, self.first, self.heads, *self.rest, self.dtype)
        layout = (self.chunk_rows, self.chunks_per_shard, self.heads_per_shard)
        return int(google_crc32c.value(repr((*facts, *layout)).encode()))

    @property
    def chunks_per_head(self) -> int:
        """Chunks of one head."""
        return -(-self.rows // self.chunk_rows)

    @property
    def cure(self) -> str:
        """What helps when a file of the array is damaged."""
        if self.path.startswith("segments/") and not self.storage.read_only:
            return "remove its folder 'segments' and open the store again: it is rebuilt"
        return self.storage.cure

    def files(self, shards: int | None = None) -> set[str]:
        """Return the names of its files, with `shards` shards of each head (default: all)."""
        if shards is None:
            shards = -(-self.chunks_per_head // self.chunks_per_shard)
        groups = range(-(-self.heads // self.heads_per_shard))
        names = {self._name(group, shard) for group in groups for shard in range(shards)}
        return {"zarr.json", *names}

    def description(self) -> dict[str, Any]:
        """Return the content of its ``zarr.json``."""
        shard = (self.heads_per_shard, self.chunk_rows * self.chunks_per_shard, *self.rest)
        chunk = (1, self.chunk_rows, *self.rest)
        shape = (self.heads, self.rows, *self.rest)
        return array_description(shape, chunk, shard, NUMPY[self.dtype])

    def write_description(self) -> None:
        """Write its ``zarr.json``."""
        self.storage.write(f"{self.path}/zarr.json", json.dumps(self.description()).encode())

    def write(self, head: int, shard: int, data: Tensor) -> None:
        """Write a shard ``[heads_per_shard, rows, *rest]``; fewer rows only of a single head."""
        tiles = data.contiguous().unflatten(1, (-1, self.chunk_rows)).flatten(0, 1)
        parts, per_head = list[bytes](), self.chunks_per_shard
        for number, tile in enumerate(tiles):
            raw = tile.flatten().view(torch.uint8).numpy().tobytes()
            checksum = _checksum(raw)
            chunk = shard * per_head + number % per_head
            parts += [raw, checksum, self._placed(head + number // per_head, chunk, checksum)]
        parts.append(self.shard_index(len(tiles)))
        self.storage.write(self._file(head // self.heads_per_shard, shard), b"".join(parts))

    def shard_index(self, count: int) -> bytes:
        """Return what follows the first `count` chunks of a shard: where they lie, for zarr."""
        index = np.full((self.heads_per_shard * self.chunks_per_shard, 2), ABSENT, "<u8")
        index[:count, 0] = np.arange(count) * self.stride
        index[:count, 1] = self.chunk_bytes + CRC
        return index.tobytes() + _checksum(index.tobytes())

    def locate(self, number: int) -> tuple[str, int]:
        """Return the file of a chunk, and its number in that file."""
        head, number = divmod(number, self.chunks_per_head)
        shard, number = divmod(number, self.chunks_per_shard)
        group, head = divmod(head, self.heads_per_shard)
        return self._file(group, shard), head * self.chunks_per_shard + number

    def number_of(self, shard: int, place: int) -> int:
        """Return the number of a chunk across all heads, by its number in a shard of all heads."""
        head, number = divmod(place, self.chunks_per_shard)
        return head * self.chunks_per_head + shard * self.chunks_per_shard + number

    def verify(self, number: int, data: bytes, file: str, *, missing: bool) -> None:
        """Raise `DamagedChunkError` unless `data` is this chunk with its checksums."""
        head, number = divmod(number, self.chunks_per_head)
        checksum, placed = data[-2 * CRC : -CRC], data[-CRC:]
        if missing:
            problem = "is missing"
        elif len(data) < self.stride:
            problem = f"is truncated (expected {self.stride} bytes, got {len(data)})"
        elif google_crc32c.value(data) != google_crc32c.extend(INTACT, placed):
            problem = "is damaged (its checksum differs)"
        elif self._placed(head, number, checksum) != placed:
            problem = "is in the wrong place (its checksum is of another place, version or store)"
        else:
            return
        raise DamagedChunkError(
            f"chunk {number} of head {head} of {self.path} {problem}, in file {file} of "
            f"{self.storage.name}; {self.cure}",
            self,
        )

    def tensor(self, chunks: Sequence[bytes]) -> Tensor:
        """Join chunks with their checksums into a tensor ``[n, chunk_rows, *rest]``."""
        data = torch.frombuffer(bytearray().join(chunks), dtype=self.dtype).view(len(chunks), -1)
        rows = data[:, : -2 * CRC // self.dtype.itemsize]
        return rows.view(len(chunks), self.chunk_rows, *self.rest)

    def _file(self, group: int, shard: int) -> str:
        return f"{self.path}/{self._name(group, shard)}"

    def _name(self, group: int, shard: int) -> str:
        return f"c.{group}.{shard}{'.0' * len(self.rest)}"

    def _placed(self, head: int, chunk: int, checksum: bytes) -> bytes:
        """Compute the checksum that covers a chunk's first checksum and its place."""
        place = head.to_bytes(8, "little") + chunk.to_bytes(8, "little") + checksum
        return int(google_crc32c.extend(self._identity, place)).to_bytes(CRC, "little")


def _checksum(raw: bytes) -> bytes:
    return int(google_crc32c.value(raw)).to_bytes(CRC, "little")
