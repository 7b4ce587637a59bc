"""What earlier processes compiled, and Numba keeps beside the source."""

from contextlib import suppress
from pathlib import Path


def remove_stale(package: Path) -> None:
    """Remove what was compiled before any file of a package changed.

    Numba looks at the file of a function only, not at those of functions that it calls.
    """
    with suppress(OSError):
        newest = max(each.stat().st_mtime for each in package.rglob("*.py"))
        for kept in package.rglob("__pycache__/*.nb[ic]"):
            if kept.stat().st_mtime < newest:
                kept.unlink(missing_ok=True)
