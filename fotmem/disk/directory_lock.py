"""Keeps a second writer out of a directory."""

import os
import weakref
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fotmem.errors import StorageError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""Name of the lock file."""


class DirectoryLock:
    """A lock on a directory and on the file ``.lock`` in it. One object of one process holds it.

    Where the system allows it, the directory itself is locked, too: deleting the file does not
    release the lock. The lock is released at the latest when the object is garbage collected or the
    process ends.

    Parameters
    ----------
    directory : Path
        Must exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made_file = False
        self._file = FileLock(directory / LOCK, timeout=0, thread_local=False)
        self._handle: int | None = None
        self._process = os.getpid()
        if fcntl is not None:
            self._handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, self._handle)

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        Raises
        ------
        StorageError
            Another object holds it.
        OSError
            The lock file cannot be made. The directory itself may be locked then.
        """
        if self._handle is not None:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._in_use() from None
            except OSError:  # some network file systems lock files only
                pass
        made_file = not os.path.lexists(self.directory / LOCK)
        try:
            self._file.acquire()
        except Timeout:
            self.release()
            raise self._in_use() from None
        self._made_file = made_file

    def release(self, *, unused: bool = False) -> None:
        """Let another writer in; `unused`: also remove the lock file that `acquire` made.

        Does nothing in a forked process: its parent holds the lock.
        """
        if os.getpid() != self._process:
            return
        if unused and self._made_file:
            with suppress(OSError):
                os.unlink(LOCK if self._handle else self.directory / LOCK, dir_fd=self._handle)
        self._file.release()
        if self._handle is not None:
            with suppress(OSError):
                fcntl.flock(self._handle, fcntl.LOCK_UN)

    def _in_use(self) -> StorageError:
        return StorageError(
            f"{self.directory} is in use by another writer; close that store, or copy the directory"
        )
