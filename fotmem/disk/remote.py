"""A storage in object storage: S3, Google Cloud, Azure, or plain HTTP for reading."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.joined_ranges import LARGEST, cut_out, joined
from fotmem.disk.objects import ObjectPart, Objects, Version
from fotmem.disk.pending_writes import PendingWrites
from fotmem.disk.storage import LOCK, Data, Storage
from fotmem.errors import StorageError

AT_ONCE = 32
"""Requests that are under way at the same time."""
NO_VERSION: Version = {"e_tag": '"none"', "version": "0"}
"""A version that no object has."""


class RemoteStorage(Storage):
    """Objects below a URL. Parts that lie near one another are read at once, others together.

    Nothing keeps a second writer out. A file at the root is replaced on the condition that it is
    the one that was read or written here last, which the server checks: of two writers, the second
    one to commit is refused. Other files wait in RAM until they are many, or needed, or synced.

    Parameters
    ----------
    objects : Objects
    read_only : str
        Why nothing can be written, and the cure; empty if writing is possible.
    """

    shared = True

    def __init__(self, objects: Objects, *, read_only: str) -> None:
        super().__init__(objects.url, read_only=read_only, durable=True, local=False)
        self._objects = objects
        self._versions: dict[str, Version | None] = {}  # of files at the root
        self._doubtful: dict[str, bytes] = {}  # sent, but no answer came
        self._checks_conditions = False  # as far as is known
        self._threads = ThreadPoolExecutor(AT_ONCE, "fotmem-storage")
        self._pending = PendingWrites(objects.put, self._threads)

    # Reading ---------------------------------------------------------------------------------

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        requests, numbers = joined(ranges)
        found = super().read(requests)
        return [
            cut_out(part, requests[n], found[n]) for part, n in zip(ranges, numbers, strict=True)
        ]

    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        self._write_out()
        firsts = list(self._threads.map(self._objects.get, ranges))
        for part, first in zip(ranges, firsts, strict=True):
            if "/" not in part.key and part.start == 0:
                self._versions[part.key] = first and first.version
        rests = [_rest(part, first) for part, first in zip(ranges, firsts, strict=True)]
        more = [each for rest in rests for each in rest]
        self.traffic.add(len(more), 0)
        versions = [
            first.version for first, rest in zip(firsts, rests, strict=True) if first for _ in rest
        ]
        parts = iter(list(self._threads.map(self._objects.get, more, versions)))
        return [
            first and b"".join([first.data, *((next(parts) or ObjectPart()).data for _ in rest)])
            for first, rest in zip(firsts, rests, strict=True)
        ]

    def names(self, path: str) -> list[str]:
        self._write_out()
        self.traffic.add(1, 0)
        return self._objects.names(path)

    # Writing ---------------------------------------------------------------------------------

    def write(self, key: str, data: Data, *, synced: bool = False) -> None:
        self._require_writable()
        whole = data if isinstance(data, bytes) else b"".join(data)
        if synced:
            self._objects.put(key, whole)
        else:
            self._pending.add(key, whole)

    def sync(self, otherwise: str = "as it was before") -> None:
        self._write_out()

    def _write_out(self) -> None:
        self._objects.require_own_process()  # others have no threads
        self._pending.write_out()

    def create(self, key: str, data: bytes) -> bool:
        self._require_writable()
        return self._objects.put(key, data, "create") is not None

    def replace(self, key: str, data: bytes) -> None:
        self._require_writable()
        self._require_conditions()
        if key in self._doubtful:
            self._is_written(key, self._doubtful[key])
        self._doubtful[key] = data
        written = self._objects.put(key, data, self._versions.get(key) or "create")
        if written is not None:
            self._versions[key] = written
        elif not self._is_written(key, data):  # a repeated request finds what it has written
            raise StorageError(
                f"another writer has committed to {self.name} since it was opened here; what it "
                "wrote stays. Open it again, and repeat what was not committed"
            )
        del self._doubtful[key]

    def disown(self, key: str) -> None:
        self._versions[key] = NO_VERSION
        self._doubtful.pop(key, None)

    def _is_written(self, key: str, data: bytes) -> bool:
        """Return whether a file holds this, and if so, take its version over."""
        found = self._objects.get(ByteRange(key))
        if found is None or found.data != data:
            return False
        self._versions[key] = found.version
        return True

    def _require_conditions(self) -> None:
        """Raise `StorageError` if the server writes although a condition does not hold."""
        if self._checks_conditions:
            return
        self._objects.put(LOCK, b"", "create")
        modes: tuple[Any, ...] = ("create", NO_VERSION)
        if any(self._objects.put(LOCK, b"", mode) is not None for mode in modes):
            raise StorageError(
                f"{self.name} cannot be written to safely: its server ignores the conditions "
                "(If-Match, If-None-Match) that keep two writers apart. Write to a folder, and "
                "copy that there"
            )
        self._checks_conditions = True

    def remove(self, path: str) -> None:
        self._require_writable()
        self._pending.remove(path)
        self._objects.delete(path)

    def _require_writable(self) -> None:
        self._objects.require_own_process()
        if self.read_only:
            raise StorageError(f"{self.name} {self.read_only}")


def _rest(part: ByteRange, first: ObjectPart | None) -> list[ByteRange]:
    """List what is left to ask for of a long part."""
    if first is None or part.stop is None:
        return []
    stop = min(part.stop, first.size)
    starts = range(part.start + LARGEST, stop, LARGEST)
    return [ByteRange(part.key, start, min(start + LARGEST, stop)) for start in starts]
