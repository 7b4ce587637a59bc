"""Converts files to text in a process of its own, which a stranger's file cannot make too large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from fotmem.errors import InputError, require_packages
from fotmem.files import open_bytes, read_rest

MEMORY = 4 * 2**30
"""Bytes of RAM that converting a file may take."""
SECONDS = 600
"""How long it may take."""


class Kind(NamedTuple):
    """A kind of file that is converted."""

    name: str
    package: str
    largest: int
    """Bytes that a file may have."""


HTML = Kind("HTML", "justhtml", 32 * 2**20)
PDF = Kind("PDF", "pypdf", 256 * 2**20)


def converted_text(path: Path, kind: Kind) -> str:
    """Return the text of a file.

    Raises
    ------
    InputError
        The file cannot be read or converted, or is too large; the message names it.
    MissingPackageError
        The package that converts it is not installed.
    """
    require_packages(str(path), kind.package, extra="documents")
    with open_bytes(path) as file:
        content = read_rest(file, path, most=kind.largest)
    if not content:
        raise InputError(f"{path} is empty")
    answer = _answer(path, content, kind)
    if "problem" in answer:
        raise InputError(f"{path} {answer['problem']}")
    return answer["text"]


def _answer(path: Path, content: bytes, kind: Kind) -> dict[str, str]:
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "fotmem.documents.converter", kind.name, str(MEMORY)],
            input=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings of the libraries
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=SECONDS,
            check=False,
        )
        answer: dict[str, str] = json.loads(ended.stdout)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path} takes more than {SECONDS} seconds to read; split it") from error
    except ValueError as error:  # it wrote no answer
        raise InputError(
            f"{path} takes more than {MEMORY >> 20:,} MiB of RAM to read, or ended the process "
            f"that read it ({ended.returncode}); split it"
        ) from error
    return answer
