"""Text that is kept as it is: the contents of files, and what is cut from a text."""

import gzip
import re
from collections.abc import Iterable
from pathlib import Path

from fotmem.errors import InputError
from fotmem.files import python_reference

LONG = 80
"""Characters from which a paragraph is kept once only: a licence, a note on every page."""


def decoded(file: Path) -> str:
    """Return the text of a file, in UTF-8 or Latin-1; `.gz` and `.dz` (dictd) are unpacked."""
    content = file.read_bytes()
    if file.suffix in {".gz", ".dz"}:
        content = gzip.decompress(content)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def contents(files: Iterable[Path]) -> str:
    """Return the text of all files."""
    return "\n\n".join(decoded(file) for file in files)


def reference_of_python(_: Iterable[Path]) -> str:
    """Return the language reference that Python's help shows."""
    return python_reference()


def between(text: str, begin: str, end: str) -> str:
    """Return what stands after the first match of `begin` and before the next of `end`.

    An empty pattern cuts nothing.

    Raises
    ------
    InputError
        There is no such match: the package has changed.
    """
    if begin:
        text = text[_match(begin, text).end() :]
    return text[: _match(end, text).start()] if end else text


def _match(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    if match is None:
        raise InputError(f"the text has no match of {pattern!r}: adapt recipes/texts/table.py")
    return match


def without_repeats(text: str) -> str:
    """Keep a long paragraph once, wherever it stands; empty lines become one."""
    seen: set[str] = set()
    kept = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        words = " ".join(paragraph.split())
        if len(words) < LONG or words not in seen:
            kept.append(paragraph.rstrip())
            seen.add(words)
    return "\n\n".join(kept).strip("\n") + "\n"
