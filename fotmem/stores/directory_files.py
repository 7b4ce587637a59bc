"""The files of a store's directory, with errors that name file, reason and cure."""

import os
import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from fotmem.disk.durable_files import PARTIAL, read_file, sync_folder, write_file
from fotmem.errors import StorageError

MANIFEST = "manifest.json"
LARGEST = 2**26
"""Most bytes of a manifest."""


class DirectoryFiles:
    """Reads and writes whole files of one directory; raises `StorageError` only.

    Parameters
    ----------
    path : Path
        Absolute.
    format : str
        What the directory holds, for messages.
    """

    def __init__(self, path: Path, format: str) -> None:
        self.path = path
        self.format = format

    def read(self, name: str) -> bytes:
        """Read a file, of the manifest ``LARGEST`` bytes at most."""
        if not re.fullmatch(r"[0-9]{8,}\.[a-z0-9.-]+|" + re.escape(MANIFEST), name):
            raise self.broken(f"{name!r} is not a file of a store")
        try:
            return read_file(self.path / name, LARGEST if name == MANIFEST else -1)
        except FileNotFoundError as error:
            raise self.broken(f"{name} is missing") from error
        except OSError as error:
            raise self.failed("read", name, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, or leave what was there."""
        try:
            write_file(self.path / name, data)
        except OSError as error:
            raise self.failed("write", name, error) from error

    def sync(self) -> None:
        """Make the names of all files durable."""
        try:
            sync_folder(self.path)
        except OSError as error:
            raise self.failed("write", "names of files", error) from error

    def remove_others(self, kept: Container[str], suffix: str) -> None:
        """Remove partial files, and numbered files with this suffix; leave all others."""
        own = re.compile(rf"[0-9]{{8,}}{re.escape(suffix)}|.+{re.escape(PARTIAL)}")
        with suppress(OSError):
            for name in os.listdir(self.path):
                if own.fullmatch(name) and name not in kept:
                    (self.path / name).unlink()

    def broken(self, problem: str) -> StorageError:
        """Build the error for a directory that is not whole."""
        return StorageError(
            f"{self.path} is not a whole {self.format}: {problem}; restore it from a copy, or "
            "choose another directory"
        )

    def failed(self, doing: str, name: str, error: Exception) -> StorageError:
        """Build the error for what the system refused."""
        reason = getattr(error, "strerror", None) or error
        return StorageError(
            f"cannot {doing} {name} of {self.path}: {reason}; repair that, then try again"
        )
