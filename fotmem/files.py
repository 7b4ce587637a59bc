"""Reads and checks text files, writes them atomically, and knows the folder of caches."""

import codecs
import io
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fotmem.errors import InputError
from fotmem.outputs import write_bytes

BEGIN = 2**20
"""Bytes that show whether a file is text."""
LARGEST_TEXT = 2**30
"""Bytes that a text file may have."""

CURES: dict[type[Exception], str] = {
    FileNotFoundError: "; check its name",
    IsADirectoryError: "; name a file in it",
    PermissionError: "; allow this user to read it",
}
"""What to do about a file that cannot be read."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        The file cannot be read, or is not TOML; the message names it.
    """
    text = read_utf8(path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises
    ------
    InputError
        The file cannot be read, is binary, in another encoding, or empty; the message names it.
    """
    text = read_utf8(path, "utf-8-sig")
    if not text.strip():
        raise InputError(f"{path} is empty; name a file that has text")
    return text


def read_utf8(path: Path, encoding: str = "utf-8") -> str:
    """Read a UTF-8 file, which may be empty.

    Its beginning is checked first, so that an endless binary device is refused.

    Raises
    ------
    InputError
        The file cannot be read, is binary, in another encoding, or larger than `LARGEST_TEXT`; the
        message names it.
    """
    with open_bytes(path) as file:
        try:
            content = file.read(BEGIN)
            begin = codecs.getincrementaldecoder(encoding)().decode(content)
            if "\0" not in begin:
                content = read_rest(file, path, content, most=LARGEST_TEXT)
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8 text (byte {error.start}); convert it first"
            ) from error
    if "\0" in text:
        raise InputError(f"{path} is binary, not text; convert it to a UTF-8 text first")
    return io.StringIO(text, newline=None).read()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read it.

    Raises
    ------
    InputError
        The file cannot be opened or read; the message names it.
    """
    try:
        with path.open("rb") as file:
            yield file
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a null byte in its name
        reason = getattr(error, "strerror", None) or error
        cure = CURES.get(type(error), "")
        raise InputError(f"{path} cannot be read: {reason}{cure}") from error


def read_rest(file: BinaryIO, path: Path, begin: bytes = b"", *, most: int) -> bytes:
    """Return the beginning of a file, which was read before, and the rest.

    Raises
    ------
    InputError
        Both have more than `most` bytes.
    """
    content = begin + file.read(most + 1 - len(begin))
    if len(content) > most:
        raise InputError(f"{path} is larger than {most:,} bytes: split it")
    return content


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    write_bytes(path, text.encode())


def python_reference() -> str:
    """Return Python's language reference, 465 kB of prose that comes with every Python."""
    from pydoc_data.topics import topics

    return "\n".join(topics.values())


def cache_folder(name: str) -> Path:
    """Return a folder of ``$XDG_CACHE_HOME/fotmem`` (``~/.cache``); it need not exist."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "fotmem" / name
