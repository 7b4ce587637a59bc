"""Reads text files, and says which one is none; writes them whole or not at all."""

import tomllib
from pathlib import Path
from typing import Any

from fotmem.errors import InputError
from fotmem.outputs import write_bytes


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        It cannot be read, or is none; the message names it.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from error


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises
    ------
    InputError
        It cannot be read, is binary, in another encoding, or empty; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it first"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise InputError(f"{path} is binary, not text")
    if not text.strip():
        raise InputError(f"{path} is empty")
    return text


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `write_bytes`."""
    write_bytes(path, text.encode())


def python_reference() -> str:
    """Return the prose that every Python brings along: its language reference, 465 kB."""
    from pydoc_data.topics import topics

    return "\n".join(topics.values())
