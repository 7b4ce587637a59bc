"""Keeps a second writer out of a directory."""

import os
import stat
import weakref
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fotmem.disk.durable_files import read_file
from fotmem.errors import StorageError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""Name of the lock file. It holds the number of the process that holds the lock."""
LONGEST_NUMBER = 20


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
            self._require_own_file()
            self._file.acquire()
        except Timeout:
            self.release()
            raise self._in_use() from None
        self._made_file = made_file
        with suppress(OSError):  # on a full disk: nobody is named
            _write_number(self.directory / LOCK)

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

    def _require_own_file(self) -> None:
        """Raise `StorageError` if something else lies there: writing to it would change that."""
        file = self.directory / LOCK
        with suppress(FileNotFoundError):
            facts = os.lstat(file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                self.release()
                raise StorageError(
                    f"{file} is not a regular file with one name, but a link, a folder or a "
                    "pipe; remove it, if nobody writes to the directory"
                )

    def _in_use(self) -> StorageError:
        holder = _number_in(self.directory / LOCK)
        by = f"process {holder}" if holder else "another writer"
        return StorageError(
            f"{self.directory} is in use by {by}; close it there, or copy the directory"
        )


def _write_number(file: Path) -> None:
    """Replace what the lock file says; another file of this name is not followed."""
    handle = os.open(file, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0))
    try:
        os.write(handle, str(os.getpid()).encode())
    finally:
        os.close(handle)


def _number_in(file: Path) -> str:
    """Return the number of the process that wrote the lock file; empty if there is none."""
    try:
        text = read_file(file, LONGEST_NUMBER)
    except OSError:
        return ""
    return text.decode() if text.isdigit() else ""
