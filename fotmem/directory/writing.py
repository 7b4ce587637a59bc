"""Opens a memory's directory for its one writer."""

from pathlib import Path

from fotmem.disk import Storage, open_storage
from fotmem.errors import StorageError


def storage_to_write(path: Path | str) -> Storage:
    """Open a folder, and keep other writers out.

    Raises
    ------
    StorageError
        It is in object storage, in use, or cannot be opened.
    """
    refuse_object_storage(path)
    return open_storage(path)


def refuse_object_storage(path: Path | str) -> None:
    """Raise `StorageError` if a path is a URL of object storage."""
    if "://" in str(path) and not str(path).startswith("file://"):
        raise StorageError(
            f"{path} is in object storage, where a memory can be read, but not written: no lock "
            "keeps a second writer out. Write it to a folder, and copy that there when it is done"
        )
