"""Where a store keeps its files: a folder, a zip file, or object storage."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import FileIO
from typing import Protocol
from weakref import WeakSet

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.traffic import Traffic
from fotmem.errors import StorageError

LOCK = ".lock"
PARTIAL = ".partial"

UNWRITABLE = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
)
"""Errors that forbid writing, though reading may still work."""
TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors that say nothing about the disk."""
UNASKED = TRANSIENT | {errno.EACCES, errno.EPERM}
"""Errors of reading that say nothing about what lies in a file."""
NO_FILE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR})
"""Errors that say that something else lies in place of a file or folder."""

LINK = (
    "expected a folder or a regular file: a store follows no symbolic link. Replace the link by "
    "its target, if you trust the directory"
)
CURES = {
    errno.ELOOP: LINK,
    errno.ENOTDIR: LINK,
    errno.EISDIR: LINK,
    errno.EMFILE: "close files, or allow this process more of them (ulimit -n), then try again",
    errno.ENFILE: "close files, or allow the system more of them, then try again",
    errno.EACCES: "give this user the right to it, or work as a user who has it",
    errno.EPERM: "give this user the right to it, or work as a user who has it",
    errno.ENOSPC: "nothing was lost: make room, then try again",
    errno.EROFS: "nothing was lost: make it writable, then try again",
}


def cure_of(error: OSError, otherwise: str) -> str:
    """Return the cure of a system error for a file of a store."""
    return CURES.get(error.errno or 0, otherwise)


class Discardable(Protocol):
    """What can be removed before its last user is gone."""

    def discard(self) -> None:
        """Remove it now."""


Data = bytes | list[bytes | memoryview]
"""What is written to a file: bytes, or parts that follow one another."""


class UnreachableError(StorageError):
    """A storage does not answer, or refuses to: that says nothing about what lies there."""


class Storage(ABC):
    """Files by key (``a/b/c``). Each is written as a whole, at once or not at all.

    Parameters
    ----------
    name : str
        For messages.
    read_only : str
        Why nothing can be written, and the cure; empty if writing is possible.
    durable : bool
        Whether it outlives the store.
    local : bool
        Whether listing folders is quick.
    """

    shared = False
    """Whether nothing keeps a second writer out: of two that `replace` a file, one fails."""

    def __init__(self, name: str, *, read_only: str, durable: bool, local: bool) -> None:
        self.name = name
        self.read_only = read_only
        self.durable = durable
        self.local = local
        self.cure = "restore the store from a copy"
        """What helps when a file is damaged."""
        self.traffic = Traffic()
        """What was read since it was opened."""
        self.cure_of_sync = "open the store again"
        """What helps when a sync has failed, and the disk is repaired."""
        self.is_closed = False
        """Whether another writer may have been let in."""
        self.released: WeakSet[Discardable] = WeakSet()
        """Groups whose files go with them."""
        self._process = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked process, and the files are its parent's."""
        return os.getpid() != self._process

    def refuse_writing(self, error: OSError) -> None:
        """Allow no writing for as long as the storage is open."""
        self.read_only = (
            f"cannot be written to ({error.strerror}); nothing was lost: make that possible, and "
            "open it again"
        )

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        """Read parts of files; None for a file that is missing, fewer bytes if it is too short."""
        found = self.fetch(ranges)
        self.traffic.add(len(ranges), sum(len(data) for data in found if data is not None))
        return found

    @abstractmethod
    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        """Do what `read` does, which counts it."""

    def open(self, key: str) -> FileIO | None:
        """Open a file that can be mapped into memory; None if it is missing, or never can be."""
        return None

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """List what lies directly below a path."""

    def bytes_used(self) -> int:
        """Count the bytes of all files; 0 where listing them is slow."""
        return 0

    def write(self, key: str, data: Data, *, synced: bool = False) -> None:
        """Write a file; `synced`: to the disk, before it replaces an older one."""
        raise NotImplementedError("nothing is written to a storage that is read-only")

    def create(self, key: str, data: bytes) -> bool:
        """Write a file where there is none; return False if another writer was quicker."""
        self.write(key, data)
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Write a file durably in place of the one that was read or written last.

        Raises
        ------
        StorageError
            Another writer has replaced it since.
        """
        self.write(key, data, synced=True)

    def disown(self, key: str) -> None:
        """Let `replace` of a file fail from now on, where other writers may have replaced it."""

    def remove(self, path: str) -> None:
        """Remove a file or all files below a path."""
        raise NotImplementedError("nothing is removed from a storage that is read-only")

    def is_own(self, key: str) -> bool:
        """Return whether this user made a file and the folders above it, as far as is known."""
        return False

    def missing(self, keys: Sequence[str]) -> str | None:
        """Return the first of these files that is missing."""
        found = self.read([ByteRange(key, 0, 1) for key in keys])
        return next((key for key, data in zip(keys, found, strict=True) if data is None), None)

    def sync(self, otherwise: str = "as it was before") -> None:
        """Make durable what was written, names included.

        Parameters
        ----------
        otherwise : str
            For the message of a sync that fails: what is on the disk then.
        """

    @property
    def sync_failed(self) -> bool:
        """Whether a sync has failed: nothing that was written is durable any more."""
        return False

    def forget_unsynced(self) -> None:
        """Allow syncs after one that failed: nobody needs what it should have made durable."""

    def close(self, *, unused: bool = False) -> None:
        """Let another writer in; `unused`: leave no trace of the opening."""

    def failure(self, doing: str, key: str, error: BaseException, cure: str) -> StorageError:
        """Build the error for a file that could not be read, written or removed."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = f"{key} of {self.name}" if key else self.name
        return StorageError(f"cannot {doing} {what}: {reason}; {cure}")
