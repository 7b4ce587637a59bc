"""Removes the files that a killed writer left."""

import re
from collections.abc import Sequence

from fotmem.disk.array_group import ArrayGroup
from fotmem.disk.storage import PARTIAL, Storage

OWN_FOLDER = re.compile(r"[0-9]{8,20}")
OWN_PARTIAL = re.compile(r".+\.[0-9a-f]{32}" + re.escape(PARTIAL))
OWN_FILE = re.compile(r"c(\.[0-9]+)+|zarr\.json|" + OWN_PARTIAL.pattern)


def remove_leftovers(
    storage: Storage,
    folders: Sequence[str],
    kept: Sequence[ArrayGroup],
    known: set[str],
    *,
    below: int | None = None,
) -> None:
    """Remove files that have a group's names and that nothing needs; leave all others.

    Parameters
    ----------
    storage : Storage
        Where listing is slow, the folders of `kept` are not searched.
    folders : sequence of str
        The folders that groups lie in.
    kept : sequence of ArrayGroup
        The groups that the manifest names.
    known : set of str
        Paths that it named when it was opened, and those that this process gave to its groups: a
        merge, a search or a copy may still need them.
    below : int, optional
        Only groups with lower names are removed: others may be those of another writer, which are
        not committed yet.
    """
    for folder in ("", *folders):
        names = storage.names(folder)
        strays = {
            name
            for name in names
            if OWN_PARTIAL.fullmatch(name)
            or (folder and OWN_FOLDER.fullmatch(name) and (below is None or int(name) < below))
        }
        _remove(storage, folder, {name for name in strays if f"{folder}/{name}" not in known})
    for group in kept if storage.local else ():
        for folder, files in {group.path: {"zarr.json"}, **group.files()}.items():
            there = {name for name in storage.names(folder) if OWN_FILE.fullmatch(name)}
            _remove(storage, folder, there - files)


def _remove(storage: Storage, folder: str, names: set[str]) -> None:
    for name in sorted(names):
        storage.remove(f"{folder}/{name}" if folder else name)
