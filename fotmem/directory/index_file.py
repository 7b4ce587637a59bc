"""The file of an index: one line, a header in JSON, and arrays."""

import hashlib
import math
import mmap
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from fotmem.directory.facts import Sha256, Text
from fotmem.directory.user_key import has_seal, seal_of
from fotmem.disk import Number, Positive, Storage, Strict
from fotmem.disk.byte_range import ByteRange

VERSION = 1
FIRST_LINE = re.compile(rb"fotmem index ([0-9]{4}) ([0-9]{8}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
"""Version, bytes of the header, its SHA-256, and its HMAC-SHA256 by the user's secret."""
LINE = 4 + 8 + 64 + 64 + len("fotmem index ") + 4
"""Bytes of the first line."""
NO_SEAL = "0" * 64

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_]+(/[a-zA-Z0-9_]+)*$", max_length=256)]
DType = Literal["uint8", "uint32", "uint64", "int32", "int64", "float16", "float32", "float64"]
Arrays = Mapping[str, NDArray[Any]]


class ArrayEntry(Strict):
    """An array; arrays follow the header and one another, C-contiguous and little-endian."""

    name: Name
    dtype: DType
    shape: Annotated[tuple[Number, ...], Field(max_length=8)]
    sha256: Sha256

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class IndexHeader(Strict):
    """What an index is, and which rows of which memory it knows."""

    directory_id: Text
    """Of the memory."""
    compactions: Number
    """How often the ids of the memory had changed."""
    store: Text
    layer: Number
    rows: Positive
    """It knows the tokens before this one."""
    tokens: Sha256
    """Of the ids of these tokens (int64, little-endian)."""
    made_by: dict[str, JsonValue]
    """Library and version, sizes, and the options that shape an index."""
    arrays: tuple[ArrayEntry, ...]


class IndexFileError(Exception):
    """An index cannot be used; the message says why."""


class IndexStart(NamedTuple):
    """The beginning of an index file."""

    header: IndexHeader
    end: int
    """Bytes of the first line and the header."""
    is_sealed: bool
    """Whether fotmem wrote the file for this user."""

    @classmethod
    def read(cls, storage: Storage, key: str) -> Self | None:
        """Read and check the beginning of a file; None if there is none.

        Raises
        ------
        IndexFileError, StorageError
        """
        (line,) = storage.read([ByteRange(key, 0, LINE)])
        if line is None:
            return None
        if not (match := FIRST_LINE.fullmatch(line)):
            raise IndexFileError("it is damaged (its first line)")
        version, size = int(match[1]), int(match[2])
        if version != VERSION:
            raise IndexFileError(f"it has format version {version}, this fotmem knows {VERSION}")
        (data,) = storage.read([ByteRange(key, LINE, LINE + size)])
        if data is None or len(data) != size:
            raise IndexFileError("it is damaged (its header is cut off)")
        if hashlib.sha256(data).hexdigest().encode() != match[3]:
            raise IndexFileError("it is damaged (the checksum of its header differs)")
        try:
            header = IndexHeader.model_validate_json(data)
        except ValidationError as error:
            raise IndexFileError(f"its header is wrong ({error.errors()[0]['msg']})") from error
        return cls(header, LINE + size, has_seal(data, match[4].decode()))

    def arrays(self, storage: Storage, key: str) -> dict[str, NDArray[Any]]:
        """Read and check the arrays. Raises `IndexFileError` and `StorageError`."""
        ends = [*accumulate((entry.size for entry in self.header.arrays), initial=self.end)]
        ranges = [ByteRange(key, *span) for span in pairwise(ends)]
        *parts, rest = _read(storage, [*ranges, ByteRange(key, ends[-1], ends[-1] + 1)])
        found = {}
        for entry, data in zip(self.header.arrays, parts, strict=True):
            if data is None or len(data) != entry.size:
                raise IndexFileError(f"it is damaged ({entry.name} is cut off)")
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise IndexFileError(f"it is damaged (the checksum of {entry.name} differs)")
            dtype = np.dtype(entry.dtype).newbyteorder("<")
            array = np.frombuffer(data, dtype).reshape(entry.shape)
            # In a mapped file, numbers may lie at any place; bytes stay there.
            found[entry.name] = array if entry.dtype == "uint8" else array.copy()
        if rest:
            raise IndexFileError("it is damaged (something follows its end)")
        return found


def _read(storage: Storage, ranges: Sequence[ByteRange]) -> list[bytes | memoryview | None]:
    """Read parts of one file; where it can be mapped into memory, they are no copies."""
    file = storage.open(ranges[0].key)
    if file is None:
        return [*storage.read(ranges)]
    with file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    parts = [whole[part.start : part.stop] for part in ranges]
    storage.traffic.add(len(parts), sum(map(len, parts)))
    return [*parts]


def index_data(header: IndexHeader, arrays: Arrays) -> list[bytes | memoryview]:
    """Return the parts of a file; `header` lists no arrays yet."""
    parts = {name: _bytes_of(array) for name, array in arrays.items()}
    entries = tuple(
        ArrayEntry(
            name=name,
            dtype=cast(Any, array.dtype.name),
            shape=array.shape,
            sha256=hashlib.sha256(parts[name]).hexdigest(),
        )
        for name, array in arrays.items()
    )
    data = header.model_copy(update={"arrays": entries}).model_dump_json().encode()
    checksum, seal = hashlib.sha256(data).hexdigest(), seal_of(data) or NO_SEAL
    line = f"fotmem index {VERSION:04d} {len(data):08d} {checksum} {seal}\n"
    return [line.encode(), data, *parts.values()]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return flat.reshape(-1).view(np.uint8).data
