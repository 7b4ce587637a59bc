"""The file of an index: one line, a header in JSON, and arrays."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from fotmem.directory.facts import Sha256, Text
from fotmem.directory.user_key import has_seal, seal_of
from fotmem.disk import Number, OpenFile, Positive, Storage, Strict, UnreadBytes

VERSION = 1
FIRST_LINE = re.compile(rb"fotmem index ([0-9]{4}) ([0-9]{8}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
"""Version, bytes of the header, its SHA-256, and its HMAC-SHA256 by the user's secret."""
LINE = 4 + 8 + 64 + 64 + len("fotmem index ") + 4
"""Bytes of the first line."""
NO_SEAL = "0" * 64

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_]+(/[a-zA-Z0-9_]+)*$", max_length=256)]
DType = Literal["uint8", "uint32", "uint64", "int32", "int64", "float16", "float32", "float64"]
Arrays = Mapping[str, NDArray[Any]]
Refuse = Callable[[str], None]


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


class IndexArrays(NamedTuple):
    """The arrays of an index file."""

    read: dict[str, NDArray[Any]]
    """They are as they were written."""
    unread: dict[str, UnreadBytes]
    """The others: whoever reads them verifies them."""


class IndexStart(NamedTuple):
    """The beginning of an index file."""

    file: OpenFile
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
        file = OpenFile(storage, key)
        (line,) = file.read([(0, LINE)])
        if line is None:
            return None
        if not (match := FIRST_LINE.fullmatch(line)):
            raise IndexFileError("it is damaged (its first line)")
        version, size = int(match[1]), int(match[2])
        if version != VERSION:
            raise IndexFileError(f"it has format version {version}, this fotmem knows {VERSION}")
        (data,) = file.read([(LINE, LINE + size)])
        if data is None or len(data) != size:
            raise IndexFileError("it is damaged (its header is cut off)")
        if hashlib.sha256(data).hexdigest().encode() != match[3]:
            raise IndexFileError("it is damaged (the checksum of its header differs)")
        try:
            header = IndexHeader.model_validate_json(data)
        except ValidationError as error:
            raise IndexFileError(f"its header is wrong ({error.errors()[0]['msg']})") from error
        return cls(file, header, LINE + size, has_seal(data, match[4].decode()))

    def arrays(self, unread: Sequence[str] = (), refuse: Refuse = lambda why: None) -> IndexArrays:
        """Read and check the arrays, but for those that carry checksums of their own.

        Parameters
        ----------
        unread : sequence of str
            How the names of arrays begin that are not read.
        refuse : callable
            Gets what is found damaged of these later.

        Raises
        ------
        IndexFileError, StorageError
        """
        entries = self.header.arrays
        ends = [*accumulate((entry.size for entry in entries), initial=self.end)]
        self._require_end(ends[-1])
        places = [*zip(entries, pairwise(ends), strict=True)]
        later = {
            entry.name: UnreadBytes(self.file, start, entry.size, refuse)
            for entry, (start, _) in places
            if entry.name.startswith((*unread,))
        }
        now = [(entry, span) for entry, span in places if entry.name not in later]
        data = _read(self.file, [span for _, span in now])
        pairs = zip(now, data, strict=True)
        return IndexArrays({entry.name: _checked(entry, part) for (entry, _), part in pairs}, later)

    def _require_end(self, end: int) -> None:
        """Raise `IndexFileError` unless the file ends there."""
        (last,) = self.file.read([(end - 1, end + 1)])
        if not last:
            raise IndexFileError("it is damaged (it is cut off)")
        if len(last) > 1:
            raise IndexFileError("it is damaged (something follows its end)")


def _checked(entry: ArrayEntry, data: bytes | memoryview | None) -> NDArray[Any]:
    """Return an array; raise `IndexFileError` unless it is as it was written."""
    if data is None or len(data) != entry.size:
        raise IndexFileError(f"it is damaged ({entry.name} is cut off)")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise IndexFileError(f"it is damaged (the checksum of {entry.name} differs)")
    dtype = np.dtype(entry.dtype).newbyteorder("<")
    array = np.frombuffer(data, dtype).reshape(entry.shape)
    # In a mapped file, numbers may lie at any place; bytes stay there.
    return array if entry.dtype == "uint8" else array.copy()


def _read(file: OpenFile, spans: Sequence[tuple[int, int]]) -> list[bytes | memoryview | None]:
    """Read parts of a file; where it can be mapped into memory, they are no copies."""
    whole = file.mapped()
    if whole is None:
        return [*file.read(spans)]
    parts = [whole[start:stop] for start, stop in spans]
    file.storage.traffic.add(len(parts), sum(map(len, parts)))
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
