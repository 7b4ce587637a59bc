"""Reads and writes whole files durably, and follows no link."""

import os
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"
"""End of the name of a file that is being written."""
FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_BINARY", "O_NONBLOCK"))
"""Follow no link, and wait for no pipe."""


def read_file(path: Path, most: int = -1) -> bytes:
    """Read a file, or its first `most` bytes. Raises `OSError`."""
    with open(path, "rb", opener=_opener) as file:
        return file.read(most)


def write_file(path: Path, data: bytes) -> None:
    """Write a file to the disk under another name, then rename it. Raises `OSError`.

    Killed at any moment, the process leaves the old file or the new one, and perhaps a partial one.
    The new name is durable after `sync_folder`.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    try:
        with open(partial, "wb", opener=_opener) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises `OSError`."""
    if os.name != "posix":  # Windows syncs no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | FLAGS, 0o666)
