"""Writes the package of a new store from the template."""

import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, get_args

from fotmem.errors import OptionError, StorageError
from fotmem.outputs import filling
from fotmem.scaffold.library import Library
from fotmem.scaffold.names import check_name, class_name, module_name

Base = Literal["rows", "graph", "index", "store"]
"""Base class of the new store: `RowsStore`, `GraphStore`, `IndexedStore` or `MemoryStore`."""
BASES: tuple[Base, ...] = get_args(Base)
HIDDEN = ("github", "gitignore")
PIECES = {
    "options.md": ("README.md", "<!-- options -->\n"),
    "capabilities.txt": ("fotmem_sample/plugin.py", "StoreCapabilities(exact=True)"),
}
"""Pieces that each base has: the common file that takes one, and the text that it replaces."""


def write_package(
    name: str, folder: Path, *, base: Base = "rows", library: Library | None = None
) -> list[Path]:
    """Write a package for a store of this name, complete or not at all.

    Parameters
    ----------
    name : str
        Name of the store: lower-case words joined by ``-``.
    folder : Path
        Where to write; must be empty if it exists.
    base : {"rows", "graph", "index", "store"}
        Base class of the store.
    library : Library, optional
        What the package depends on. The code that is written does not use it yet.

    Returns
    -------
    list of Path
        The files, relative to `folder`.

    Raises
    ------
    OptionError
        The name or the base cannot be used.
    StorageError
        The folder is not empty, or cannot be written.
    """
    check_name(name)
    if base not in BASES:
        raise OptionError(f"base must be one of {', '.join(BASES)}, got {base!r}")
    files = {
        Path(_filled(place, name, library)): _filled(text, name, library)
        for place, text in _template(base).items()
    }
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise StorageError(f"{folder} is not empty; choose another folder by --path")
        _write(files, folder)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {folder} ({error.strerror}); choose another folder by --path"
        ) from error
    return sorted(files)


def _template(base: Base) -> dict[str, str]:
    """Return the text of each file."""
    template = resources.files("fotmem.scaffold") / "template"
    files = dict(_files(template / "common", "")) | dict(_files(template / base, ""))
    for piece, (file, place) in PIECES.items():
        files[file] = files[file].replace(place, files.pop(piece))
    return files


def _files(folder: Traversable, place: str) -> Iterator[tuple[str, str]]:
    """Yield place and text of each file in a folder."""
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__pycache__")):  # left by linters and Python
            continue
        name = f"{place}.{entry.name}" if entry.name in HIDDEN else f"{place}{entry.name}"
        if entry.is_dir():
            yield from _files(entry, f"{name}/")
        else:
            yield name, entry.read_text("utf-8")


def _filled(text: str, name: str, library: Library | None) -> str:
    """Put a store's name, and its library's, in place of the template's.

    Without a library, the lines that name one become comments.
    """
    if not library:
        text = re.sub(r"(?m)^( *)(.*\bsample[-_]library\b)", r"\1# \2", text)
    names = {
        "sample-library": library.package if library else "your-library",
        "sample_library": library.module if library else "your_library",
        "fotmem_sample": module_name(name),
        "test_sample": "test_" + name.replace("-", "_"),
        "Sample": class_name(name),
        "sample": name,
    }
    return re.sub("|".join(names), lambda found: names[found[0]], text)


def _write(files: dict[Path, str], folder: Path) -> None:
    """Write files, or leave nothing behind."""
    with filling(folder):
        for place, text in files.items():
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
