"""From what a caller names as a directory to a place."""

import os
import zipfile
from pathlib import Path

from fotmem.errors import StorageError
from fotmem_zarr.disk.folder import Folder
from fotmem_zarr.disk.place import Place


def open_place(directory: Path | str) -> Place:
    """Open a folder (made if missing), a zip file or a URL."""
    text = str(directory)
    if isinstance(directory, str) and "://" in text and not text.startswith("file://"):
        from fotmem_zarr.disk.remote import remote_place

        return remote_place(text)
    path = Path(text.removeprefix("file://"))
    is_file = os.path.isfile(path)  # pathlib's raises where a name is too long
    if is_file and zipfile.is_zipfile(path):
        from fotmem_zarr.disk.zipped import ZipPlace

        return ZipPlace(path)
    if is_file or (path.suffix == ".zip" and not os.path.isdir(path)):
        raise StorageError(
            f"{path} is no zip file; a store is written to a folder, which can be zipped afterwards"
        )
    return Folder(path, durable=True)
