"""Removes what a writer that was killed left behind."""

import re
from collections.abc import Sequence

from fotmem_zarr.disk.owned import Owned
from fotmem_zarr.disk.place import PARTIAL, Place
from fotmem_zarr.disk.root import KINDS

OWN_FOLDER = re.compile(r"[0-9]{8,20}")
OWN_PARTIAL = re.compile(r".+\.[0-9a-f]{32}" + re.escape(PARTIAL))
OWN_FILE = re.compile(r"c(\.[0-9]+)+|zarr\.json|" + OWN_PARTIAL.pattern)


def sweep(place: Place, kept: Sequence[Owned], known: set[str], made: range) -> None:
    """Remove files that only a store makes, and that nothing needs; others are left alone.

    Parameters
    ----------
    place : Place
        Folders that are kept are looked into only where listing is quick.
    kept : sequence of Owned
        What the manifest names.
    known : set of str
        Paths that it named when it was opened: merging, a search or a copy may still need them.
    made : range
        Names that this process gave: what has them may be at work.
    """
    for folder in ("", *KINDS):
        names = place.names(folder)
        strays = {
            name
            for name in names
            if OWN_PARTIAL.fullmatch(name)
            or (folder and OWN_FOLDER.fullmatch(name) and int(name) not in made)
        }
        _remove(place, folder, {name for name in strays if f"{folder}/{name}" not in known})
    for owned in kept if place.local else ():
        for folder, files in {owned.path: {"zarr.json"}, **owned.files()}.items():
            there = {name for name in place.names(folder) if OWN_FILE.fullmatch(name)}
            _remove(place, folder, there - files)


def _remove(place: Place, folder: str, names: set[str]) -> None:
    for name in sorted(names):
        place.remove(f"{folder}/{name}" if folder else name)
