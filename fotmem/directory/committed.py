"""What the last commit of a memory's directory states, and whether there is one."""

import os
from pathlib import Path

from fotmem.directory.manifest import FORMAT, TOKENS, MemoryManifest
from fotmem.directory.writing import storage_to_write
from fotmem.disk import ROOT, is_remote, open_storage


def read_manifest(path: Path | str) -> MemoryManifest:
    """Read what the last commit of a directory states, and nothing else.

    Raises
    ------
    StorageError
        There is no memory, or its manifest cannot be read.
    """
    storage = open_storage(path, writable=False)
    try:
        return FORMAT.load(storage).manifest
    finally:
        storage.close()


def find_manifest(path: Path | str) -> MemoryManifest | None:
    """Read what the last commit of a directory states; None if a memory can be begun there.

    Raises
    ------
    StorageError
        There is something else, or the manifest cannot be read.
    """
    if not is_remote(path):
        return read_manifest(path) if is_memory(path) else None
    storage = storage_to_write(path)
    try:
        found = FORMAT.read(storage)
        return None if found is None else found.manifest
    finally:
        storage.close()


def is_memory(path: Path | str) -> bool:
    """Return whether a path or URL looks like a memory's directory, which a model's never does."""
    name = str(path)
    if "://" in name or name.endswith(".zip") or os.path.lexists(os.path.join(path, ROOT)):
        return True
    return any(Path(path, TOKENS).glob("[0-9]*"))  # its manifest was removed
