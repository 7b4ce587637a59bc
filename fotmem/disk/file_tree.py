"""Files below a folder, reached without following any link that lies there."""

import os
import shutil
import stat
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ELOOP
from io import FileIO
from itertools import groupby
from pathlib import Path
from uuid import uuid4

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.storage import PARTIAL, Data

HANDLES = {os.open, os.mkdir, os.rename, os.unlink, os.stat} <= os.supports_dir_fd
"""Whether this system reaches files from the handle of a folder (Windows does not)."""
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
HERE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
FILE = HERE | getattr(os, "O_NONBLOCK", 0)  # a pipe in place of a file must not stop the reader


class FileTree:
    """The files below a folder, by key (``a/b/c``).

    No symbolic link below the folder is followed: nothing outside the folder is read, written or
    removed. Where the system has handles of folders, this holds even if another process changes the
    folder at the same time. Methods raise `OSError`.

    Parameters
    ----------
    path : Path
        Absolute; may be a link itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: int | None = None
        """Of the folder itself."""
        if HANDLES:
            self.handle = os.open(path, FOLDER)
            weakref.finalize(self, os.close, self.handle)

    def in_place(self) -> bool:
        """Return whether the path still leads to this folder."""
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        return self.handle is None or os.path.samestat(there, os.fstat(self.handle))

    def has(self, key: str) -> bool:
        """Return whether a file, folder or link has this key."""
        try:
            with self._above(key) as (name, folder):
                os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def is_own(self, key: str) -> bool:
        """Return whether this user owns a file and all folders above it, from this one on."""
        if os.name != "posix":  # no owner is known
            return True
        names = key.split("/")
        above = ["/".join(names[:count]) for count in range(1, len(names) + 1)]
        owners = {os.stat(self.path).st_uid}
        for each in above:
            with self._above(each) as (name, folder):
                owners.add(os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid)
        return owners == {os.geteuid()}

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        """Read parts of files; None where there is no such file.

        Folders and files that follow one another are opened once. An error's `filename` is the key.
        """
        folders = groupby(ranges, lambda part: part.key.rpartition("/")[0])
        return [data for folder, some in folders for data in self._read_in(folder, list(some))]

    def _read_in(self, folder: str, ranges: list[ByteRange]) -> list[bytes | None]:
        """Read parts of files of one folder."""
        found: list[bytes | None] = []
        key = folder
        try:
            with self._folder(folder) as handle:
                for key, parts in groupby(ranges, lambda part: part.key):
                    found += self._read_file(handle, key, list(parts))
        except FileNotFoundError:
            return [None] * len(ranges)
        except OSError as error:
            raise OSError(error.errno, error.strerror, key) from error
        return found

    def _read_file(
        self, folder: int | None, key: str, parts: list[ByteRange]
    ) -> Sequence[bytes | None]:
        name = key.rpartition("/")[2] if folder is not None else self._path(key)
        try:
            file, size = _opened(name, os.O_RDONLY, folder)
            with file:
                return [part.read(file, size) for part in parts]
        except FileNotFoundError:
            return [None] * len(parts)

    def open(self, key: str) -> FileIO:
        """Open a regular file for reading."""
        with self._above(key) as (name, folder):
            return _opened(name, os.O_RDONLY, folder)[0]

    def write(self, key: str, data: Data, *, synced: bool) -> None:
        """Write a file as a whole, or leave what was there; its folder must exist."""
        with self._above(key) as (name, folder):
            partial = f"{name}.{uuid4().hex}{PARTIAL}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | HERE
                with FileIO(os.open(partial, flags, 0o666, dir_fd=folder), "wb") as file:
                    for part in [data] if isinstance(data, bytes) else data:
                        view = memoryview(part)
                        while view:
                            view = view[file.write(view) :]
                    if synced:
                        os.fsync(file.fileno())
                os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(partial, dir_fd=folder)
                raise

    def make_folder(self, key: str) -> bool:
        """Make a folder in one that exists; return whether it is new."""
        with self._above(key) as (name, folder):
            try:
                os.mkdir(name, dir_fd=folder)
            except FileExistsError:
                return False
            return True

    def names(self, key: str) -> list[str]:
        """List what lies in a folder; nothing if there is none."""
        try:
            with self._folder(key) as folder:
                return sorted(os.listdir(self._path(key) if folder is None else folder))
        except FileNotFoundError:
            return []

    def remove(self, key: str) -> None:
        """Remove a file, a link, or a folder with all that is below it; links are not followed."""
        with self._above(key) as (name, folder):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)

    def sync(self, key: str) -> None:
        """Have a file, or the names in a folder, on disk."""
        if key and not self._is_folder(key):
            with (
                self._above(key) as (name, folder),
                _opened(name, os.O_RDWR, folder)[0] as file,
            ):
                os.fsync(file.fileno())
        else:
            with self._folder(key) as folder:
                if folder is not None:
                    os.fsync(folder)

    def _is_folder(self, key: str) -> bool:
        with self._above(key) as (name, folder):
            return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)

    @contextmanager
    def _folder(self, key: str) -> Iterator[int | None]:
        """Open a folder."""
        with self._above(f"{key}/." if key else ".") as (_, folder):
            yield folder

    @contextmanager
    def _above(self, key: str) -> Iterator[tuple[str, int | None]]:
        """Open the folder that a file lies in: the file's name, and the handle to find it by."""
        *folders, name = key.split("/")
        if self.handle is None:
            yield self._path(key), None
            return
        handle = self.handle
        opened: list[int] = []
        try:
            for folder in folders:
                handle = os.open(folder, FOLDER | HERE, dir_fd=handle)
                opened.append(handle)
            yield name, handle
        finally:
            for one in opened:
                os.close(one)

    def _path(self, key: str) -> str:
        """Find a file where there are no handles: a link is refused if it is there already."""
        path = self.path
        for name in key.split("/"):
            path = path / name
            if path.is_symlink() or getattr(os.path, "isjunction", os.path.islink)(path):
                raise OSError(ELOOP, os.strerror(ELOOP))
        return str(path)


def _opened(name: str, mode: int, folder: int | None) -> tuple[FileIO, int]:
    """Open a regular file; return its size, too."""
    file = FileIO(os.open(name, mode | FILE, dir_fd=folder), "rb")
    try:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(ELOOP, "it is not a regular file")
    except BaseException:
        file.close()
        raise
    return file, facts.st_size
