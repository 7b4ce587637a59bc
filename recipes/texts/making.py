"""Makes a text out of packages, and notes which versions it was made of."""

import hashlib
import json
import platform
import re
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from fotmem.errors import InputError
from fotmem.files import read_utf8, write_text
from fotmem.measure.setting import first_of
from recipes.texts.packages import Package, unpack
from recipes.texts.plain import between, without_repeats
from recipes.texts.table import KINDS, PYTHON, SPLITS, Text

NOTES = "texts.json"
"""File in the folder of texts: what is known of each."""


class Made(NamedTuple):
    """What is known of a text that was made."""

    characters: int
    sha256: str
    """Of its bytes, in UTF-8."""
    versions: dict[str, str]
    """Of the packages that it was made of."""


def notes(folder: Path) -> dict[str, Made]:
    """Read what is known of the texts of a folder.

    Raises
    ------
    InputError
        The file of the notes holds something else.
    """
    file = folder / NOTES
    if not file.exists():
        return {}
    try:
        return TypeAdapter(dict[str, Made]).validate_json(read_utf8(file))
    except ValidationError as error:
        raise InputError(
            f"{file} is not what make texts notes of its texts ({first_of(error)}): move it away; "
            "make texts writes it anew"
        ) from error


def make(kind: str, split: str, folder: Path) -> Made:
    """Make a text of the table, unless the folder has it; return what is known of it.

    Raises
    ------
    InputError
        A package cannot be downloaded, or it has changed and has no such files.
    """
    text: Text = getattr(KINDS[kind], split)
    name = f"{split}/{kind}"
    known, file = notes(folder), folder / f"{name}.txt"
    if name in known and file.exists():
        return known[name]
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unpacked:
        packages = {each: _package(each, Path(unpacked)) for each in text.sources}
        content = plain(text, packages)[: SPLITS[split]]
    write_text(file, content)
    versions = {each: package.version for each, package in packages.items()}
    made = Made(len(content), hashlib.sha256(content.encode()).hexdigest(), versions)
    noted = {each: one._asdict() for each, one in (known | {name: made}).items()}
    write_text(folder / NOTES, json.dumps(noted, indent=2, sort_keys=True) + "\n")
    return made


def plain(text: Text, packages: dict[str, Package]) -> str:
    """Turn the files of packages into a text, as the table says."""
    content = between(text.convert(list(files_of(text, packages))), text.begin, text.end)
    if text.removed:
        content = re.sub(text.removed, "", content)
    return without_repeats(content)


def files_of(text: Text, packages: dict[str, Package]) -> Iterator[Path]:
    """Yield the files of a text; those of a glob in the order of their names.

    Raises
    ------
    InputError
        A glob matches no file.
    """
    for name, globs in text.sources.items():
        folder = packages[name].folder
        for glob in globs:
            files = [file for file in folder.glob(glob) if file.is_file()]
            if not files:
                raise InputError(
                    f"the package {name} {packages[name].version} has no file {glob}:"
                    " adapt recipes/texts/table.py"
                )
            for file in sorted(files, key=by_number):
                path = f"/{file.relative_to(folder).as_posix()}"
                if not (text.omitted and re.search(text.omitted, path)):
                    yield file


def by_number(path: Path) -> list[str]:
    """Return a key that puts page 10 after page 9."""
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _package(name: str, folder: Path) -> Package:
    if name == PYTHON:
        return Package(Path(sysconfig.get_paths()["stdlib"]), platform.python_version())
    return unpack(name, folder)
