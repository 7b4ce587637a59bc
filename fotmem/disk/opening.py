"""Opens the storage that a caller names as a directory."""

import os
import re
import zipfile
from pathlib import Path

from fotmem.disk.folder import Folder
from fotmem.disk.storage import Storage
from fotmem.errors import StorageError, require_packages

SCHEMES = ("s3", "gs", "az", "http", "https")
URL_AS_PATH = re.compile(r"(s3|gs|az|https?):/[^/]")
"""What pathlib makes of a URL."""


def is_remote(directory: Path | str) -> bool:
    """Return whether this is a URL of object storage."""
    text = str(directory)
    return isinstance(directory, str) and "://" in text and not text.startswith("file://")


def open_storage(directory: Path | str, *, writable: bool = True) -> Storage:
    """Open a folder, a zip file or a URL; a folder that is `writable` is made if missing."""
    text = str(directory)
    if is_remote(directory):
        return _remote_storage(text, writable=writable)
    if URL_AS_PATH.match(text) and not os.path.isdir(text.partition("/")[0]):
        raise StorageError(f"{text} was a URL before it became a path; pass it as a string")
    path = Path(text.removeprefix("file://"))
    is_file = os.path.isfile(path)  # pathlib's raises where a name is too long
    if is_file and zipfile.is_zipfile(path):
        from fotmem.disk.zip_file import ZipStorage

        return ZipStorage(path)
    if is_file or (path.suffix == ".zip" and not os.path.isdir(path)):
        raise StorageError(
            f"{path} is not a zip file; write the store to a folder and zip that afterwards"
        )
    return Folder(path, durable=True, writable=writable)


def _remote_storage(url: str, *, writable: bool) -> Storage:
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise StorageError(
            f"{url} cannot be opened: expected a URL of {', '.join(SCHEMES)}, got {scheme}"
        )
    require_packages(url, "obstore", extra="object-store")
    from fotmem.disk.objects import Objects
    from fotmem.disk.remote import RemoteStorage

    read_only = "" if writable else "was opened for reading; open it for writing"
    if scheme.startswith("http"):
        read_only = "can only be read over HTTP; open it by a URL of s3, gs or az"
    return RemoteStorage(Objects(url), read_only=read_only)
