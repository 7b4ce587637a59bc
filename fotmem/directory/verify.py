"""Reads every byte of a memory's directory that is under a checksum, and lists what is damaged."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fotmem.directory.damage import MEND, REBUILD, RESTORE, Damage, Verified
from fotmem.directory.group_damage import damages_of
from fotmem.directory.index_file import IndexFileError, IndexStart
from fotmem.directory.kept_indexes import FOLDER, PARTIAL_NAME, index_files
from fotmem.directory.manifest import FORMAT, MemoryManifest
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import ROOT, Storage, open_storage
from fotmem.disk.group_description import CURE, DamagedFileError
from fotmem.errors import StorageError

LAYER = re.compile(r"[0-9]{2,4}")
Check = Callable[[str, IndexStart], None]


def verify(path: Path | str, *, progress: bool = False) -> Verified:
    """List all damage of a memory's directory. Nothing is changed.

    Parameters
    ----------
    path : path or URL
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    StorageError
        There is no memory, or it is of another version.
    """
    storage = open_storage(path, writable=False)
    try:
        while True:
            found, manifest = _verified(path, storage, progress)
            if not found.damages or _manifest(storage) == manifest:
                return found  # otherwise, a writer may have removed files meanwhile
    finally:
        storage.close()


def _verified(
    path: Path | str, storage: Storage, progress: bool
) -> tuple[Verified, MemoryManifest | None]:
    """List the damage of the last commit."""
    manifest = _manifest(storage)
    if manifest is None:
        manifest_damages = [Damage(problem, ROOT, RESTORE) for problem in _problems(storage)]
        damages = (*manifest_damages, *damages_beside(path, storage, _folders(storage)))
        return Verified(storage.name, 0, (), damages), None
    beside = damages_beside(path, storage, manifest.folders())
    damages = (*beside, *damages_of(storage, manifest, progress=progress))
    return Verified(storage.name, manifest.rows, manifest.documents, damages), manifest


def _manifest(storage: Storage) -> MemoryManifest | None:
    """Read the manifest; None if it is damaged."""
    try:
        return FORMAT.load(storage, alone=True).manifest
    except DamagedFileError:
        return None


def _problems(storage: Storage) -> Iterator[str]:
    """Say what is wrong with the manifest."""
    try:
        FORMAT.read_alone(storage)
    except DamagedFileError as error:
        yield str(error).removesuffix(f"; {CURE}")


def _folders(storage: Storage) -> list[str]:
    """List the folders of layers, which no manifest names."""
    return ["layers", *(f"layers/{n}" for n in storage.names("layers") if LAYER.fullmatch(n))]


def damages_beside(path: Path | str, storage: Storage, folders: Sequence[str]) -> Iterator[Damage]:
    """Yield the damage that is not of rows: descriptions of folders, and indexes."""
    for folder in folders:
        try:
            FORMAT.check_folders([folder], storage, needed=True)
        except StorageError as error:
            problem = str(error).removesuffix(f"; {CURE}")
            yield Damage(problem, f"{folder}/{ROOT}", MEND)
    try:
        directory = MemoryDirectory.open(path)
    except StorageError:  # what is wrong with it is listed elsewhere
        yield from _damages_of_indexes(storage, lambda key, start: None)
        return
    try:
        yield from _damages_of_indexes(storage, directory.indexes.check)
    finally:
        directory.close()


def _damages_of_indexes(storage: Storage, check: Check) -> Iterator[Damage]:
    """Yield the indexes that are damaged, or of another memory."""
    try:
        files = [key for key in index_files(storage) if not PARTIAL_NAME.fullmatch(_name(key))]
    except StorageError as error:
        yield Damage(str(error), FOLDER, REBUILD)
        return
    for key in files:
        try:
            start = IndexStart.read(storage, key)
            if start is not None:
                check(key, start)
                start.arrays()
        except (IndexFileError, StorageError) as error:
            yield Damage(f"the index {key} of {storage.name}: {error}", key, REBUILD)


def _name(key: str) -> str:
    return key.rpartition("/")[2]
