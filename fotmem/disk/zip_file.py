"""A zip file of a store's folder, for reading."""

import lzma
import struct
import threading
import zipfile
import zlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.storage import Storage

BROKEN = (
    *(OSError, ValueError, RuntimeError, EOFError, IndexError, OverflowError),
    *(zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile),
)
"""What `zipfile` raises for files that are damaged, encrypted, or packed in an unknown way."""
CURE = "restore it from a copy"


class ZipStorage(Storage):
    """A zip file. Nothing is unpacked: only the bytes that are asked for are read.

    Parameters
    ----------
    path : Path
        With the manifest at its root.
    """

    def __init__(self, path: Path) -> None:
        read_only = "is a zip file, which is read-only; unpack it, and open the folder"
        super().__init__(str(path), read_only=read_only, durable=True, local=True)
        self._mutex = threading.Lock()  # members share one position in the file
        try:
            self._file = zipfile.ZipFile(path)
        except BROKEN as error:
            raise self.failure("open", "", error, CURE) from error

    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        files = groupby(ranges, lambda part: part.key)
        with self._mutex:
            return [data for key, parts in files for data in self._read(key, list(parts))]

    def _read(self, key: str, parts: Sequence[ByteRange]) -> Sequence[bytes | None]:
        try:
            info = self._file.getinfo(key)
        except KeyError:
            return [None] * len(parts)
        try:
            with self._file.open(info) as member:
                return [part.read(member, info.file_size) for part in parts]
        except BROKEN as error:
            raise self.failure("read", key, error, CURE) from error

    def names(self, path: str) -> list[str]:
        below = f"{path}/" if path else ""
        names = [name for name in self._file.namelist() if name.startswith(below)]
        return sorted({name.removeprefix(below).partition("/")[0] for name in names} - {""})

    def close(self, *, unused: bool = False) -> None:
        self._file.close()
