"""A directory that one store keeps its files in."""

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fotmem.disk.directory_lock import LOCK, DirectoryLock
from fotmem.disk.durable_files import PARTIAL, sync_folder
from fotmem.errors import OptionError, StorageError
from fotmem.stores.directory_files import MANIFEST, DirectoryFiles
from fotmem.stores.directory_manifest import DirectoryManifest, LayerKind, checksum
from fotmem.stores.store import MemoryStore

UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC})
"""Errors that forbid writing, though reading may still work."""


class StoreDirectory:
    """Files of one store, and the manifest that names them: the base of a persistent store.

    A file is written whole, under a new name, and never changed. `commit` makes the files durable,
    and only then replaces the manifest. So a process that is killed at any moment leaves the
    directory as of its last commit. The manifest holds a checksum of each file: damage raises
    `StorageError`, which names the file. A second writer is refused. No link is followed. A
    directory that cannot be written to opens for reading.

    Parameters
    ----------
    path : path
        Made if it is missing.
    store : MemoryStore
        Whose heads, head dimension and dtype the directory must have.
    format : str
        Name and version of what the store writes, such as ``"my-store 1"``; others are refused.
    suffix : str
        Of the files' names.

    Raises
    ------
    StorageError
        The directory is in use, damaged, or holds other files, or cannot be read or written.
    OptionError
        It belongs to a layer of another shape or dtype, or is a URL.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from fotmem import create_store
    >>> store = create_store("exact", num_heads=2, head_dim=4)
    >>> with TemporaryDirectory() as folder:
    ...     directory = StoreDirectory(folder, store, format="example 1")
    ...     name = directory.write(b"some rows")
    ...     directory.commit([name], rows=3)
    ...     directory.close()
    ...     again = StoreDirectory(folder, store, format="example 1")
    ...     again.facts, again.read(name)
    ({'rows': 3}, b'some rows')
    """

    def __init__(
        self, path: Path | str, store: MemoryStore, *, format: str, suffix: str = ".bin"
    ) -> None:
        if "://" in str(path):
            raise OptionError(f"directory must be a folder, got the URL {str(path)!r}")
        self.path = Path(os.path.abspath(path))  # the working directory may change
        dtype = str(store.dtype).removeprefix("torch.")
        kind = LayerKind(format, store.num_heads, store.head_dim, dtype)
        self._manifest = DirectoryManifest(kind, 0, {}, {})
        self._disk = DirectoryFiles(self.path, format)
        self._suffix = suffix
        self._written: dict[str, str] = {}  # files that the manifest does not name yet
        self._refusal = ""  # why nothing can be committed any more
        self._lock = self._locked()
        try:
            if os.path.lexists(self.path / MANIFEST):
                self._load()
            else:
                self._begin()
        except BaseException:
            self._lock.release(unused=True)
            raise

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the last commit; empty for a new directory."""
        return self._manifest.facts

    def read(self, name: str) -> bytes:
        """Read a file that the last commit named.

        Raises
        ------
        StorageError
            It is missing or damaged. The directory is released, so that it can be repaired.
        """
        try:
            data = self._disk.read(name)
            if checksum(data) != self._manifest.files.get(name):
                raise self._disk.broken(f"{name} is damaged (its checksum differs)")
        except StorageError:
            self.close()
            raise
        return data

    def write(self, data: bytes) -> str:
        """Write a new file, and return its name; `commit` makes it durable.

        Raises
        ------
        StorageError
            It cannot be written; nothing has changed.
        """
        number = self._manifest.next
        name = f"{number:08d}{self._suffix}"
        self._disk.write(name, data)
        self._manifest = self._manifest._replace(next=number + 1)
        self._written[name] = checksum(data)
        return name

    def commit(self, files: Iterable[str], **facts: Any) -> None:
        """Replace the manifest: from now on the directory holds these files and facts.

        Parameters
        ----------
        files : iterable of str
            Names that `write` returned, or that the last commit named. All others are removed.
        **facts
            What JSON can hold; `facts` returns it when the directory is opened again.

        Raises
        ------
        StorageError
            The disk is full or broken. The directory is as of the last commit.
        """
        if self._refusal:
            raise StorageError(self._refusal)
        known = self._manifest.files | self._written
        named = {name: known[name] for name in files}
        manifest = self._manifest._replace(files=named, facts=facts)
        self._sync()  # the names of new files
        self._disk.write(MANIFEST, manifest.encode())
        self._sync()
        self._manifest, self._written = manifest, {}
        self._disk.remove_others(named, self._suffix)

    def close(self) -> None:
        """Let another writer in."""
        self._refusal = f"{self.path} is closed; open it again"
        self._lock.release()

    # Opening -------------------------------------------------------------------------------

    def _locked(self) -> DirectoryLock:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = DirectoryLock(self.path)
        except (OSError, ValueError) as error:  # such as a zero byte in the name
            raise self._disk.failed("open", "the lock", error) from error
        try:
            lock.acquire()
        except StorageError:
            raise
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise self._disk.failed("open", "the lock", error) from error
            lock.release()  # any number of stores may read
            self._refusal = str(self._disk.failed("write", "the lock", error))
        return lock

    def _begin(self) -> None:
        found = sorted(os.listdir(self.path))
        if found := [name for name in found if name != LOCK and not name.endswith(PARTIAL)]:
            raise self._disk.broken(f"it has no {MANIFEST}, but {', '.join(found[:3])}")
        self.commit([])
        with suppress(OSError):  # the parent may be somebody else's
            sync_folder(self.path.parent)

    def _load(self) -> None:
        """Read the manifest, and check whose it is."""
        try:
            manifest = DirectoryManifest.decode(self._disk.read(MANIFEST))
        except ValueError as error:
            raise self._disk.broken(f"{MANIFEST} is damaged ({error})") from error
        if manifest.kind != self._manifest.kind:
            raise OptionError(
                f"{self.path} holds {manifest.kind}, but the caller asked for "
                f"{self._manifest.kind}; ask for what it holds, or choose another directory"
            )
        self._manifest = manifest

    def _sync(self) -> None:
        try:
            self._disk.sync()
        except StorageError as error:
            # A second sync may succeed, though names are lost.
            self._refusal = f"{error}; open the store again: it is as of its last flush"
            raise StorageError(self._refusal) from error
