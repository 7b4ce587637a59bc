"""A local folder, read and written as plain files. Zarr's own way takes 1.3 ms for a chunk."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from fotmem.disk.byte_range import ByteRange
from fotmem.disk.directory_lock import DirectoryLock
from fotmem.disk.durable_files import sync_folder
from fotmem.disk.file_tree import FileTree
from fotmem.disk.storage import (
    TRANSIENT,
    UNASKED,
    UNWRITABLE,
    Data,
    Storage,
    UnreachableError,
    cure_of,
)
from fotmem.errors import StorageError


class Folder(Storage):
    """A local folder, made if it is missing.

    One process opens it for writing. If nothing can be written, as on a full disk, it is
    `read_only` and not locked.

    Raises
    ------
    StorageError
        If it is in use by another writer, or can be neither read nor made.
    """

    def __init__(self, path: Path, *, durable: bool, writable: bool = True) -> None:
        read_only = "" if writable else "was opened for reading; open it for writing"
        super().__init__(str(path), read_only=read_only, durable=durable, local=True)
        self.path = Path(os.path.abspath(path))  # the working directory may change
        self._unsynced: set[str] = set()  # files, and folders whose names may not be on disk yet
        self._lost = ""  # error of a failed sync, after which nothing is durable any more
        self._made: list[Path] = []  # new folders, outermost first
        self._above: list[Path] = []  # folders above, in which their names may not be on disk yet
        try:
            if writable:
                self._make_path()
            self._tree = FileTree(self.path)
            self._lock = DirectoryLock(self.path)
            if writable:
                self._take_lock()
        except (OSError, ValueError) as error:  # such as a zero byte in the name
            self._unmake_path()
            if isinstance(error, StorageError):
                raise
            cure = "choose a folder that is writable" if writable else "is the path right?"
            if isinstance(error, OSError) and error.errno in TRANSIENT:
                cure = cure_of(error, cure)
            raise self.failure("open", "", error, cure) from error

    def _make_path(self) -> None:
        missing = []
        for folder in (self.path, *self.path.parents):
            if folder.exists():
                break
            missing.append(folder)
        for folder in reversed(missing):
            with suppress(FileExistsError):  # another process was quicker
                folder.mkdir()
                self._made.append(folder)
                self._above.append(folder.parent)

    def _unmake_path(self) -> None:
        for folder in reversed(self._made):
            with suppress(OSError):  # somebody uses it by now
                folder.rmdir()

    def _take_lock(self) -> None:
        """Keep other writers out, or note that nothing can be written."""
        try:
            self._lock.acquire()
        except OSError as error:
            if error.errno not in UNWRITABLE:
                self._lock.release()
                raise
            self.refuse_writing(error)

    def refuse_writing(self, error: OSError) -> None:
        super().refuse_writing(error)
        self._lock.release()  # any number of stores may read

    def bytes_used(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(OSError):  # a writer has removed it
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def fetch(self, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        try:
            return self._tree.read(ranges)
        except OSError as error:
            raise self._unread(str(error.filename), error) from error

    def open(self, key: str) -> FileIO | None:
        try:
            return self._tree.open(key)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unread(key, error) from error

    def names(self, path: str) -> list[str]:
        try:
            return self._tree.names(path)
        except OSError as error:
            raise self._failed("list", path, error) from error

    def write(self, key: str, data: Data, *, synced: bool = False) -> None:
        folder = key.rpartition("/")[0]
        try:
            try:
                self._tree.write(key, data, synced=synced)
            except FileNotFoundError:
                self._make(folder)
                self._tree.write(key, data, synced=synced)
        except OSError as error:
            raise self._failed("write", key, error) from error
        self._unsynced |= {key, folder}

    def _make(self, folder: str) -> None:
        """Make a folder, and those above it that are missing."""
        above = folder.rpartition("/")[0]
        if above and not self._tree.has(above):
            self._make(above)
        if folder and self._tree.make_folder(folder):
            self._unsynced.add(above)

    def remove(self, path: str) -> None:
        below = f"{path}/"
        # Before: what is half removed, such as with too many open files, must not be synced.
        self._unsynced = {
            key for key in self._unsynced if key != path and not key.startswith(below)
        }
        try:
            self._tree.remove(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._failed("remove", path, error) from error

    def is_own(self, key: str) -> bool:
        try:
            return self._tree.is_own(key)
        except OSError:
            return False

    def missing(self, keys: Sequence[str]) -> str | None:
        try:
            return next((key for key in keys if not self._tree.has(key)), None)
        except OSError as error:
            raise self._failed("read", "", error) from error

    @property
    def sync_failed(self) -> bool:
        return bool(self._lost)

    def forget_unsynced(self) -> None:
        self._lost = ""
        self._unsynced.clear()

    def sync(self, otherwise: str = "as it was before") -> None:
        if self._lost:  # a second fsync would succeed, though nothing is on the disk
            raise StorageError(self._lost)
        if not self.durable:
            return
        try:
            self._require_in_place(otherwise)
            while self._above:
                sync_folder(self._above[-1])
                self._above.pop()
            for key in sorted(self._unsynced, reverse=True):  # a folder after what lies in it
                self._tree.sync(key)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            if error.errno in TRANSIENT:
                cure = f"{cure_of(error, '')}; until then it is {otherwise}"
                raise self.failure("write", "files", error, cure) from error
            cure = f"repair the disk, then {self.cure_of_sync}: it is {otherwise}"
            self._lost = str(self.failure("write", "files", error, cure))
            raise StorageError(self._lost) from error
        self._unsynced.clear()

    def _require_in_place(self, otherwise: str) -> None:
        if not self._tree.in_place():
            raise StorageError(
                f"{self.name} was removed or replaced while the store was open; nothing can be "
                "made durable there: put the folder back, or copy the store into another one "
                f"(it is {otherwise})"
            )

    def _unread(self, key: str, error: OSError) -> StorageError:
        failure = self._failed("read", key, error)
        if error.errno in UNASKED:  # a repair must not take it for damage
            return UnreachableError(*failure.args)
        return failure

    def _failed(self, doing: str, key: str, error: OSError) -> StorageError:
        cure = cure_of(error, "nothing was lost: repair the disk, then try again")
        return self.failure(doing, key, error, cure)

    def close(self, *, unused: bool = False) -> None:
        if self.inherited:
            return
        for group in list(self.released) if unused else ():
            group.discard()
        self.is_closed = True
        self._lock.release(unused=unused)
        if unused:
            self._unmake_path()


def temporary_folder() -> Folder:
    """Make a folder that is removed together with the object."""
    try:
        path = Path(tempfile.mkdtemp(prefix="fotmem-zarr-"))
    except OSError as error:
        raise StorageError(
            f"cannot write to {tempfile.gettempdir()}: {error.strerror}; let TMPDIR name a folder "
            "that is writable, or pass a directory"
        ) from error
    folder = Folder(path, durable=False)
    weakref.finalize(folder, _discard, folder.path, folder._lock, os.getpid())
    return folder


def _discard(path: Path, lock: DirectoryLock, process: int) -> None:
    if os.getpid() == process:  # not a forked process that drops its copy of the store
        lock.release()
        shutil.rmtree(path, ignore_errors=True)
