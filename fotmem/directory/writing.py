"""Opens a memory's directory for a writer."""

from pathlib import Path

from fotmem.disk import Storage, open_storage
from fotmem.errors import StorageError


def storage_to_write(path: Path | str) -> Storage:
    """Open a folder, and keep other writers out; or object storage, where the first commit counts.

    Raises
    ------
    StorageError
        It is in use, or cannot be opened, or is reached in a way that allows no writing.
    """
    storage = open_storage(path)
    if storage.read_only and storage.shared:
        raise StorageError(f"{storage.name} {storage.read_only}")
    return storage
