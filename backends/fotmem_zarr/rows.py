"""Rows of all heads in one sharded zarr array, read and written chunk by chunk."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from fotmem import StorageError
from fotmem_zarr.place import Place, Range

CRC = 4
"""Bytes of a checksum."""
ABSENT = 2**64 - 1

NUMPY = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "uint16",  # its bits: zarr has no bfloat16
    torch.int32: "int32",
}


class Chunk(NamedTuple):
    """Some rows of one head."""

    head: int
    number: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """An array ``[H, rows, *rest]`` of zarr v3 in chunks of one head, with crc32c, sharded.

    The chunks of a shard lie in order, so that where each one is needs no look at the index of
    the shard, and neighbours are read at once.
    """

    place: Place
    path: str
    heads: int
    rows: int
    rest: tuple[int, ...]
    dtype: torch.dtype
    chunk_rows: int
    chunks_per_shard: int = 1
    heads_per_shard: int = 1

    @property
    def chunk_bytes(self) -> int:
        """Of one chunk, without its checksum."""
        return self.chunk_rows * math.prod(self.rest) * self.dtype.itemsize

    def describe(self) -> None:
        """Write ``zarr.json``."""
        shard = (self.heads_per_shard, self.chunk_rows * self.chunks_per_shard, *self.rest)
        chunk = (1, self.chunk_rows, *self.rest)
        shape = (self.heads, self.rows, *self.rest)
        data = _metadata(shape, chunk, shard, NUMPY[self.dtype])
        self.place.write(f"{self.path}/zarr.json", data)

    def write(self, head: int, shard: int, data: Tensor) -> None:
        """Write a shard of ``[heads_per_shard, rows, *rest]``; fewer rows only of a single head."""
        tiles = data.contiguous().unflatten(1, (-1, self.chunk_rows)).flatten(0, 1)
        parts, index = [], np.full((self.heads_per_shard * self.chunks_per_shard, 2), ABSENT, "<u8")
        for number, tile in enumerate(tiles):
            raw = tile.flatten().view(torch.uint8).numpy().tobytes()
            parts += [raw, _checksum(raw)]
            index[number] = number * (len(raw) + CRC), len(raw) + CRC
        parts += [index.tobytes(), _checksum(index.tobytes())]
        self.place.write(self._file(head, shard), b"".join(parts))

    def read(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Read chunks ``[chunk_rows, *rest]``; neighbours that follow one another at once."""
        runs = list(self._runs(chunks))
        found = self.place.read([part for part, _ in runs])
        tensors = []
        for (part, run), data in zip(runs, found, strict=True):
            size = self.chunk_bytes + CRC
            for number, chunk in enumerate(run):
                raw = b"" if data is None else data[number * size : (number + 1) * size]
                self._verify(chunk, raw, part.key, missing=data is None)
                flat = torch.frombuffer(
                    raw, dtype=self.dtype, count=self.chunk_bytes // self.dtype.itemsize
                )
                tensors.append(flat.view(self.chunk_rows, *self.rest))
        return tensors

    def read_all(self) -> Tensor:
        """Read everything, ``[H, rows, *rest]``; for small arrays."""
        numbers = range(-(-self.rows // self.chunk_rows))
        chunks = [Chunk(head, number) for head in range(self.heads) for number in numbers]
        whole = torch.stack(self.read(chunks)).view(self.heads, -1, *self.rest)
        return whole[:, : self.rows]

    def _runs(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Range, list[Chunk]]]:
        size = self.chunk_bytes + CRC
        run: list[Chunk] = []
        where: tuple[str, int] = ("", 0)
        for chunk in chunks:
            file, index = self._locate(chunk)
            if run and where != (file, index - len(run)):
                yield Range(where[0], where[1] * size, (where[1] + len(run)) * size), run
                run = []
            if not run:
                where = (file, index)
            run.append(chunk)
        if run:
            yield Range(where[0], where[1] * size, (where[1] + len(run)) * size), run

    def _locate(self, chunk: Chunk) -> tuple[str, int]:
        shard, number = divmod(chunk.number, self.chunks_per_shard)
        index = chunk.head % self.heads_per_shard * self.chunks_per_shard + number
        return self._file(chunk.head, shard), index

    def _file(self, head: int, shard: int) -> str:
        place = (head // self.heads_per_shard, shard, *(0 for _ in self.rest))
        return f"{self.path}/c.{'.'.join(map(str, place))}"

    def _verify(self, chunk: Chunk, raw: bytes | bytearray, file: str, *, missing: bool) -> None:
        size = self.chunk_bytes + CRC
        if len(raw) == size and _checksum(bytes(raw[:-CRC])) == raw[-CRC:]:
            return
        if missing:
            what = "is missing"
        elif len(raw) < size:
            what = f"is truncated (expected {size} bytes, got {len(raw)})"
        else:
            what = "is damaged (its checksum differs)"
        raise StorageError(
            f"chunk {chunk.number} of head {chunk.head} of {self.path} {what}, in file {file} of "
            f"{self.place.name}; {self._cure()}"
        )

    def _cure(self) -> str:
        if self.path.startswith("segments/") and not self.place.read_only:
            return "remove its folder 'segments' and open the store again: it is made anew"
        return "restore the store from a copy"


def _checksum(raw: bytes) -> bytes:
    return int(google_crc32c.value(raw)).to_bytes(CRC, "little")


def _metadata(
    shape: Sequence[int], chunks: Sequence[int], shards: Sequence[int], dtype: str
) -> bytes:
    """Describe an array as zarr v3 does; asking zarr to would take 5 ms."""
    checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {
        "chunk_shape": chunks,
        "codecs": checked,
        "index_codecs": checked,
        "index_location": "end",
    }
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shards}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
    }
    return json.dumps(array).encode()
