"""Where a store keeps its files: a folder, a zip file, or what zarr reaches by URL."""

import os
import shutil
import tempfile
import weakref
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from filelock import FileLock, Timeout

from fotmem import StorageError

LOCK = ".lock"
PARTIAL = ".partial"


class Range(NamedTuple):
    """Bytes of one file; `stop` None: to its end."""

    key: str
    start: int = 0
    stop: int | None = None


class Place(ABC):
    """Files by key (``a/b/c``). Each is written as a whole, at once or not at all."""

    def __init__(self, name: str, *, read_only: bool, durable: bool) -> None:
        self.name = name
        """For messages."""
        self.read_only = read_only
        self.durable = durable
        """Whether it outlives the store."""
        self._process = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked process, and the files are its parent's."""
        return os.getpid() != self._process

    @abstractmethod
    def read(self, ranges: Sequence[Range]) -> list[bytes | None]:
        """Read parts of files; None where there is no such file, less where it is too short."""

    @abstractmethod
    def write(self, key: str, data: bytes, *, synced: bool = False) -> None:
        """Write a file; `synced`: have it on disk before it replaces one that is there."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file or all files below a path."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """List what lies directly below a path."""

    def settle(self) -> None:
        """Make what was written durable, names included."""

    def close(self, *, unused: bool = False) -> None:
        """Let another writer in; `unused`: leave no trace of having looked."""

    def broken(self, doing: str, key: str, error: BaseException, cure: str) -> StorageError:
        """Build the error for what went wrong with a file."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return StorageError(f"cannot {doing} {key} of {self.name}: {reason}; {cure}")


class Folder(Place):
    """A local folder; plain files, because zarr's own way to read one chunk takes 1.3 ms."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        super().__init__(str(path), read_only=False, durable=durable)
        self.path = Path(os.path.abspath(path))  # the working directory may change
        self._touched: set[Path] = set()  # folders whose files and names may not be on disk yet
        self._lost = ""  # what could not be made durable
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._locked_first = not (self.path / LOCK).exists()
            self._lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
            self._lock.acquire()
        except Timeout:
            raise StorageError(
                f"{self.name} is in use by another writer; close that store, or copy the folder"
            ) from None
        except (OSError, ValueError) as error:  # such as a zero byte in the name
            raise self.broken(
                "write to", LOCK, error, "choose a folder that is writable"
            ) from error

    def read(self, ranges: Sequence[Range]) -> list[bytes | None]:
        files = groupby(ranges, lambda part: part.key)
        return [data for key, parts in files for data in self._read(key, list(parts))]

    def _read(self, key: str, parts: Sequence[Range]) -> Sequence[bytes | None]:
        """Read parts of one file, which is opened once."""
        try:
            with open(f"{self.path}/{key}", "rb", buffering=0) as file:  # faster than a Path
                return [_read(file, part) for part in parts]
        except FileNotFoundError:
            return [None] * len(parts)
        except OSError as error:
            raise self.broken("read", key, error, "is the disk still there?") from error

    def write(self, key: str, data: bytes, *, synced: bool = False) -> None:
        path = self.path / key
        partial = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
        try:
            self._make(path.parent)
            with open(partial, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if synced:
                    os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            cure = "nothing was lost: make room or repair the disk, then try again"
            raise self.broken("write", key, error, cure) from error
        self._touched.add(path.parent)

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            self._touched.add(folder.parent)

    def remove(self, path: str) -> None:
        shutil.rmtree(self.path / path, ignore_errors=True)

    def names(self, path: str) -> list[str]:
        folder = self.path / path
        return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []

    def settle(self) -> None:
        if self._lost:  # a second fsync would succeed, with nothing on the disk
            raise StorageError(self._lost)
        for folder in self._touched if self.durable else ():
            try:
                _sync(folder)
            except FileNotFoundError:  # removed since
                continue
            except OSError as error:
                cure = "repair the disk, then open the store again: it is as at its last flush"
                self._lost = str(self.broken("write", str(folder), error, cure))
                raise StorageError(self._lost) from error
        self._touched.clear()

    def close(self, *, unused: bool = False) -> None:
        if not self.inherited:
            self._lock.release()
            if unused and self._locked_first:
                (self.path / LOCK).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have a folder and its files on disk."""
    for path in folder.iterdir():
        if path.is_file():
            _fsync(path, os.O_RDWR)
    if os.name == "posix":
        _fsync(folder, os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(file: FileIO, part: Range) -> bytes:
    file.seek(part.start)
    if part.stop is None:
        return file.readall()
    left = part.stop - part.start
    data = file.read(left)
    while len(data) < left and (more := file.read(left - len(data))):
        data += more
    return data


def temporary_folder() -> Folder:
    """Make a folder that goes away with the object."""
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


def _discard(path: Path, lock: FileLock, process: int) -> None:
    if os.getpid() == process:  # not a forked one, whose copy of the store came to its end
        lock.release()
        shutil.rmtree(path, ignore_errors=True)


def open_place(directory: Path | str) -> Place:
    """Open a folder (made if missing), a zip file or a URL."""
    from fotmem_zarr.remote import remote_place, zip_place

    text = str(directory)
    if isinstance(directory, str) and "://" in text and not text.startswith("file://"):
        return remote_place(text)
    path = Path(text.removeprefix("file://"))
    is_file = os.path.isfile(path)  # pathlib's raises where a name is too long
    if is_file and zipfile.is_zipfile(path):
        return zip_place(path)
    if is_file or (path.suffix == ".zip" and not os.path.isdir(path)):
        raise StorageError(
            f"{path} is no zip file; a store is written to a folder, which can be zipped afterwards"
        )
    return Folder(path, durable=True)
