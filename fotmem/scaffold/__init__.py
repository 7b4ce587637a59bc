"""What ``fotmem plugin new`` writes: a package for a new store.

The folder `template` is such a package, for a store named "sample": linted, typed and tested as
it stands. Files whose names begin with a dot have none there, or tools would take them for ours.
"""

import importlib.util
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fotmem.errors import OptionError, StorageError
from fotmem.outputs import filling
from fotmem.plugin.registry import registry

LONGEST = 32
"""Letters of a name: with more, lines of the package would grow beyond 100 columns."""
HIDDEN = ("github", "gitignore")


def check_name(name: str) -> None:
    """Check that a package for a store of this name can be made.

    Raises
    ------
    OptionError
        It is no name for a store, or one that is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        words = "-".join(re.findall(r"[a-z0-9]+", name.lower())).lstrip("0123456789-")
        instead = f"; did you mean {words!r}?" if 0 < len(words) <= LONGEST else ""
        raise OptionError(
            "a store's name must be lower-case words joined by '-', the first beginning with a "
            f"letter, got {name!r}{instead}"
        )
    if len(name) > LONGEST:
        raise OptionError(f"a store's name must have at most {LONGEST} letters, got {len(name)}")
    _check_free(name)


def write_package(name: str, folder: Path) -> list[Path]:
    """Write a package for a store of this name, complete or not at all.

    Parameters
    ----------
    name : str
        Of the store: lower-case words joined by ``-``.
    folder : Path
        Where; must be empty if it exists.

    Returns
    -------
    list of Path
        The files, relative to `folder`.

    Raises
    ------
    OptionError
        The name cannot be used.
    StorageError
        The folder is not empty, or cannot be written.
    """
    check_name(name)
    files = {Path(_renamed(place, name)): _renamed(text, name) for place, text in _template()}
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


def _check_free(name: str) -> None:
    """Refuse what fotmem would leave out, or what would hide another package."""
    package, found = _renamed("fotmem_sample", name), registry()
    if name in found.stores:
        owner = found.owners[found.stores[name]]
        raise OptionError(
            f"there is a store named {name!r} already, of plugin {owner!r}; choose another name, "
            "or uninstall that one"
        )
    if importlib.util.find_spec(package) is not None:
        raise OptionError(
            f"there is a package named {package} already; choose another name, or uninstall it"
        )


def _template() -> Iterator[tuple[str, str]]:
    """Yield place and text of each file."""
    yield from _files(resources.files("fotmem.scaffold") / "template", "")


def _files(folder: Traversable, place: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__pycache__")):  # left by linters and Python
            continue
        name = f"{place}.{entry.name}" if entry.name in HIDDEN else f"{place}{entry.name}"
        if entry.is_dir():
            yield from _files(entry, f"{name}/")
        else:
            yield name, entry.read_text("utf-8")


def _renamed(text: str, name: str) -> str:
    """Put a store's name in place of the template's."""
    words = name.split("-")
    text = text.replace("_sample", "_" + "_".join(words))
    text = text.replace("Sample", "".join(map(str.capitalize, words)))
    return text.replace("sample", name)


def _write(files: dict[Path, str], folder: Path) -> None:
    """Write files, or leave nothing behind."""
    with filling(folder):
        for place, text in files.items():
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
