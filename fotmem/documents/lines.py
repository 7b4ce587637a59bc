"""Reads the texts of a JSONL file, a line at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from fotmem.errors import InputError, shown
from fotmem.files import LARGEST_TEXT, open_bytes


def line_texts(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each line, from 1, and its text.

    Raises
    ------
    InputError
        The file cannot be read or is empty; or a line is not an object with this field, or too
        long. The message names the file and the line.
    """
    number = found = 0
    with open_bytes(path) as file:
        while line := file.readline(LARGEST_TEXT + 1):
            number += 1
            place = f"{path}, line {number}"
            if len(line) > LARGEST_TEXT:
                raise InputError(f"{place} is larger than {LARGEST_TEXT:,} bytes: split it")
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                found += 1
                yield number, _text(line, field, place)
    if not found:
        raise InputError(f"{path} is empty; name a file that has text")


def _text(line: bytes, field: str, place: str) -> str:
    try:
        content = line.decode("utf-8-sig" if place.endswith(", line 1") else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place} is not UTF-8 text (byte {error.start}); convert the file first"
        ) from error
    try:
        text = json.loads(content)[field]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f'{place}: expected an object such as {{"{field}": "..."}}, got {content[:40]!r}'
        ) from error
    if not isinstance(text, str):
        raise InputError(f"{place}: {field} must be a string, got {shown(text)}")
    return text
