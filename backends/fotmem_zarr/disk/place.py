"""Where a store keeps its files: a folder, a zip file, or what zarr reaches by URL."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from fotmem.errors import StorageError

LOCK = ".lock"
PARTIAL = ".partial"

UNWRITABLE = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
)
"""What a system answers where nothing can be written, though all can be read."""
TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""What says nothing about the disk."""

LINK = (
    "there must be a folder or a regular file, and a store follows no symbolic link: is the "
    "directory from somebody else? Replace the link by what it leads to, if you trust it"
)
CURES = {
    errno.ELOOP: LINK,
    errno.ENOTDIR: LINK,
    errno.EISDIR: LINK,
    errno.EMFILE: "close files, or allow this process more of them (ulimit -n), then try again",
    errno.ENFILE: "close files, or allow the system more of them, then try again",
    errno.EACCES: "give this user the right to it, or work as one who has it",
    errno.EPERM: "give this user the right to it, or work as one who has it",
    errno.ENOSPC: "nothing was lost: make room, then try again",
    errno.EROFS: "nothing was lost: make it writable, then try again",
}


def cure_of(error: OSError, otherwise: str) -> str:
    """Say what helps against what the system answered, of a file below a store's folder."""
    return CURES.get(error.errno or 0, otherwise)


class Range(NamedTuple):
    """Bytes of one file; `stop` None: to its end."""

    key: str
    start: int = 0
    stop: int | None = None


class Place(ABC):
    """Files by key (``a/b/c``). Each is written as a whole, at once or not at all.

    Parameters
    ----------
    name : str
        For messages.
    read_only : str
        Why nothing can be written, and the cure; empty if it can.
    durable : bool
        Whether it outlives the store.
    local : bool
        Whether listing folders is quick.
    """

    def __init__(self, name: str, *, read_only: str, durable: bool, local: bool) -> None:
        self.name = name
        self.read_only = read_only
        self.durable = durable
        self.local = local
        self._process = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked process, and the files are its parent's."""
        return os.getpid() != self._process

    def refuse_writing(self, error: OSError) -> None:
        """Note that nothing can be written here, for as long as the place is open."""
        self.read_only = (
            f"cannot be written to ({error.strerror}); nothing was lost: make that possible, and "
            "open it again"
        )

    @abstractmethod
    def read(self, ranges: Sequence[Range]) -> list[bytes | None]:
        """Read parts of files; None where there is no such file, less where it is too short."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """List what lies directly below a path."""

    def write(self, key: str, data: bytes, *, synced: bool = False) -> None:
        """Write a file; `synced`: have it on disk before it replaces one that is there."""
        raise NotImplementedError("nothing is written to a place that is read-only")

    def remove(self, path: str) -> None:
        """Remove a file or all files below a path."""
        raise NotImplementedError("nothing is removed from a place that is read-only")

    def missing(self, keys: Sequence[str]) -> str | None:
        """Name the first of some files that is not there."""
        found = self.read([Range(key, 0, 1) for key in keys])
        return next((key for key, data in zip(keys, found, strict=True) if data is None), None)

    def settle(self) -> None:
        """Make what was written durable, names included."""

    def close(self, *, unused: bool = False) -> None:
        """Let another writer in; `unused`: leave no trace of having looked."""

    def broken(self, doing: str, key: str, error: BaseException, cure: str) -> StorageError:
        """Build the error for what went wrong with a file."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = f"{key} of {self.name}" if key else self.name
        return StorageError(f"cannot {doing} {what}: {reason}; {cure}")
