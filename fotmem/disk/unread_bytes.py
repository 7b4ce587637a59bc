"""A file that stays open, and parts of it that are read when they are needed."""

import mmap
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from io import FileIO

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.storage import Storage


class OpenFile:
    """A file that is read part by part; in a local folder the same one, whatever replaces it.

    Parameters
    ----------
    storage : Storage
    key : str

    Raises
    ------
    StorageError
        It cannot be opened.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage = storage
        self.key = key
        self._file = storage.open(key)
        # Without `pread`, two threads share a position in the file.
        self._lock = nullcontext() if hasattr(os, "pread") else threading.Lock()
        if self._file is not None:
            weakref.finalize(self, self._file.close)

    def read(self, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Read from byte `start` to before `stop`, each; fewer bytes where the file ends.

        None: there is no such file.

        Raises
        ------
        StorageError
        """
        if self._file is None:
            return self.storage.read([ByteRange(self.key, *span) for span in spans])
        try:
            with self._lock:
                found = [_read(self._file, *span) for span in spans]
        except OSError as error:
            raise self.storage.failure("read", self.key, error, self.storage.cure) from error
        self.storage.traffic.add(len(spans), sum(map(len, found)))
        return [*found]

    def mapped(self) -> memoryview | None:
        """Map all of it into memory; None where that is impossible. Nothing is counted."""
        if self._file is None:
            return None
        try:
            return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # a file system that cannot, or it is empty by now
            return None


def _read(file: FileIO, start: int, stop: int) -> bytes:
    if not hasattr(os, "pread"):
        return ByteRange("", start, stop).read(file, os.fstat(file.fileno()).st_size)
    data = os.pread(file.fileno(), stop - start, start)
    while len(data) < stop - start:  # a system call brings 2 GiB at most
        more = os.pread(file.fileno(), stop - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


@dataclass(frozen=True)
class UnreadBytes:
    """A part of a file that nobody has read or verified: whoever reads it verifies it.

    Parameters
    ----------
    file : OpenFile
    start, size : int
        Where it lies.
    refuse : callable
        Call it with what is damaged: then the file is not used again.
    """

    file: OpenFile
    start: int
    size: int
    refuse: Callable[[str], None]

    def read(self) -> bytes:
        """Read all of it."""
        (data,) = read_parts([(self, 0, self.size)])
        return data or b""


def read_parts(parts: Sequence[tuple[UnreadBytes, int, int]]) -> list[bytes | None]:
    """Read from a start to before a stop of each; the parts of a file are read at once.

    Fewer bytes come where the file was cut short, None where it is missing.

    Raises
    ------
    StorageError
        A file cannot be read.
    """
    places: dict[OpenFile, list[int]] = {}
    for place, (whole, _, _) in enumerate(parts):
        places.setdefault(whole.file, []).append(place)
    found: list[bytes | None] = [None] * len(parts)
    for file, here in places.items():
        spans = [_span(*parts[place]) for place in here]
        for place, data in zip(here, file.read(spans), strict=True):
            found[place] = data
    return found


def _span(whole: UnreadBytes, start: int, stop: int) -> tuple[int, int]:
    stop = min(stop, whole.size)
    return whole.start + min(start, stop), whole.start + stop
