"""Rows of all heads in one sharded zarr array, read and written chunk by chunk."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from fotmem import StorageError
from fotmem_zarr.place import Place, Range

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

    @property
    def chunks_per_head(self) -> int:
        """Of one head."""
        return -(-self.rows // self.chunk_rows)

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
        self.place.write(self._file(head // self.heads_per_shard, shard), b"".join(parts))

    def read(self, chunks: Sequence[int]) -> list[bytes]:
        """Read chunks, each with its checksum; neighbours that follow one another at once.

        They are numbered through all heads, `chunks_per_head` of each.
        """
        runs = list(self._runs(chunks))
        found = self.place.read([part for part, _ in runs])
        size = self.chunk_bytes + CRC
        read = []
        for (part, run), data in zip(runs, found, strict=True):
            for number, chunk in enumerate(run):
                raw = b"" if data is None else data[number * size : (number + 1) * size]
                if len(raw) != size or google_crc32c.value(raw) != INTACT:
                    raise self._broken(chunk, raw, part.key, missing=data is None)
                read.append(raw)
        return read

    def tensor(self, read: Sequence[bytes]) -> Tensor:
        """Put chunks side by side that were read: ``[n, chunk_rows, *rest]``."""
        data = torch.frombuffer(bytearray().join(read), dtype=self.dtype).view(len(read), -1)
        rows = data[:, : -CRC // self.dtype.itemsize]
        return rows.view(len(read), self.chunk_rows, *self.rest)

    def load(self, chunks: Sequence[int]) -> Tensor:
        """Read chunks: ``[n, chunk_rows, *rest]``."""
        return self.tensor(self.read(chunks))

    def read_all(self) -> Tensor:
        """Read everything, ``[H, rows, *rest]``; for small arrays."""
        whole = self.load(range(self.heads * self.chunks_per_head))
        return whole.reshape(self.heads, -1, *self.rest)[:, : self.rows]

    def _runs(self, chunks: Sequence[int]) -> Iterator[tuple[Range, Sequence[int]]]:
        """Find what lies side by side: where, and which chunks."""
        size = self.chunk_bytes + CRC
        head, number = np.divmod(np.asarray(chunks, dtype=np.int64), self.chunks_per_head)
        shard, index = np.divmod(number, self.chunks_per_shard)
        index += head % self.heads_per_shard * self.chunks_per_shard
        group = head // self.heads_per_shard
        begins = np.ones(len(chunks), dtype=bool)
        begins[1:] = (np.diff(index) != 1) | (np.diff(shard) != 0) | (np.diff(group) != 0)
        for begin, end in pairwise([*np.flatnonzero(begins).tolist(), len(chunks)]):
            first = int(index[begin])
            part = Range(
                self._file(group[begin], shard[begin]), first * size, (first + end - begin) * size
            )
            yield part, chunks[begin:end]

    def _file(self, group: int, shard: int) -> str:
        return f"{self.path}/c.{group}.{shard}{'.0' * len(self.rest)}"

    def _broken(self, chunk: int, raw: bytes, file: str, *, missing: bool) -> StorageError:
        size = self.chunk_bytes + CRC
        if missing:
            what = "is missing"
        elif len(raw) < size:
            what = f"is truncated (expected {size} bytes, got {len(raw)})"
        else:
            what = "is damaged (its checksum differs)"
        head, number = divmod(chunk, self.chunks_per_head)
        return StorageError(
            f"chunk {number} of head {head} of {self.path} {what}, in file {file} of "
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
