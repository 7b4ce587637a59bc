"""Output files and folders: checked before results are computed, written atomically."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fotmem.errors import StorageError
from fotmem.interrupts import interrupts_deferred

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_file(file: Path | str, *, inputs: Iterable[Path | str | None] = ()) -> None:
    """Check that a file can be written, without creating or changing it.

    Parameters
    ----------
    file : path
        Its parent folders need not exist: `write_bytes` creates them.
    inputs : iterable of path
        Files that are read, and so must not be overwritten. None is ignored.

    Raises
    ------
    StorageError
        The file cannot be written, is a folder, or is one of the inputs.
    """
    with _refusing(file, "file", inputs):
        place = Path(file).resolve()
        if place.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if place.is_file():
            with place.open("r+b"):
                pass
        if place.is_file() or not place.exists():  # not such as /dev/stdout
            _try_writing_in(place.parent)


def check_folder(
    folder: Path | str, *, inputs: Iterable[Path | str | None] = (), empty: bool = False
) -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Raises
    ------
    StorageError
        Files cannot be written there; or it is a file, one of the inputs, or not empty although
        `empty` is True.
    """
    with _refusing(folder, "folder", inputs):
        place = Path(folder)
        if os.path.lexists(place) and not place.is_dir():
            raise NotADirectoryError(None, "it is not a folder")
        if empty and place.is_dir() and any(place.iterdir()):
            raise FileExistsError(None, "it is not empty")
        _try_writing_in(place.resolve())


def write_bytes(file: Path | str, content: bytes) -> None:
    """Write a file atomically; create its parent folders.

    If it cannot be written, an existing file stays as it was.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    try:
        place = Path(file).resolve()  # so that a link stays a link
        if place.exists() and not place.is_file():
            place.write_bytes(content)  # such as /dev/stdout
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name[:32]}.{os.getpid()}.part")
        try:
            partial.write_bytes(content)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {file} ({error.strerror or error})") from error


def write_picture(picture: Figure, file: Path | str) -> None:
    """Write a matplotlib figure as PNG, atomically."""
    drawn = io.BytesIO()
    picture.savefig(drawn, dpi=120, format="png")
    write_bytes(file, drawn.getvalue())


@contextmanager
def filling(
    folder: Path, *, kept: Callable[[BaseException], bool] = lambda error: False
) -> Iterator[None]:
    """Create a folder unless it exists, and fill it; if that fails, restore what was before.

    Parameters
    ----------
    folder : Path
        Missing, or empty.
    kept : callable
        Gets the error; returns whether the files written so far are kept nevertheless.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        with interrupts_deferred():
            if not kept(error):
                for place in missing[-1:] or _content(folder):
                    _remove(place)
        raise


def _remove(place: Path) -> None:
    """Remove a file, or a folder and its content; needs few open files."""
    with suppress(OSError):
        if place.is_symlink() or not place.is_dir():
            place.unlink()
            return
        for each in _content(place):
            _remove(each)
        place.rmdir()


def _content(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [folder / name for name in os.listdir(folder)]
    return []


@contextmanager
def _refusing(place: Path | str, kind: str, inputs: Iterable[Path | str | None]) -> Iterator[None]:
    try:
        for each in inputs:
            both = each is not None and os.path.exists(each) and os.path.exists(place)
            if both and os.path.samefile(str(each), place):
                raise FileExistsError(None, "it is an input")
        yield
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write {place} ({reason}); name another {kind}") from error


def _try_writing_in(folder: Path) -> None:
    """Write a temporary file into a folder, or into its nearest parent that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b" ")
