"""Groups of arrays in one storage: names for new ones, and the commit that makes them durable."""

import logging
import secrets
from collections.abc import Sequence
from typing import Generic

from fotmem.disk.array_group import ArrayGroup, Location
from fotmem.disk.folder import temporary_folder
from fotmem.disk.leftovers import remove_leftovers
from fotmem.disk.manifest_file import M, ManifestFile, ManifestFormat
from fotmem.disk.storage import Storage
from fotmem.disk.zarr_metadata import group_json
from fotmem.errors import StorageError

LOG = logging.getLogger("fotmem")
SPREAD = 2**40
"""Where several may write at a time, each begins its names at random in so many."""


class GroupFiles(Generic[M]):
    """Begins groups, and writes the manifest that names them.

    Parameters
    ----------
    format : ManifestFormat
    """

    def __init__(self, format: ManifestFormat[M]) -> None:
        self.format = format
        self.storage: Storage | None = None
        self.closed = ""
        """The name of the storage, once it is closed."""
        self._next = 0
        self._names_taken = 0
        """Lower names were given before the directory was opened."""
        self._directory_id = ""
        # Paths that the manifest named when it was opened, and those that were given since.
        self._known: set[str] = set()
        self._tidied = False
        self._kept: list[ArrayGroup] = []

    @property
    def name(self) -> str:
        """Where the files are, for messages."""
        return self.storage.name if self.storage else f"the {self.format.noun}'s temporary folder"

    @property
    def directory_id(self) -> str:
        """Drawn at random when the directory was begun."""
        return self._directory_id

    @property
    def next_name(self) -> int:
        """What the manifest is to state: groups of later writers get this number or higher ones."""
        return max(self._next, self._names_taken + SPREAD) if self._is_shared else self._next

    @property
    def _is_shared(self) -> bool:
        return self.storage is not None and self.storage.shared

    @property
    def lasting(self) -> bool:
        """Whether a commit has anything to do: the files outlive the object, and can be written."""
        found = self.storage
        return found is not None and found.durable and not (found.read_only or found.inherited)

    def require_own(self) -> None:
        """Raise `StorageError` in a forked process: two would write the same files."""
        if self.storage is not None and self.storage.inherited:
            noun = self.format.noun
            raise StorageError(
                f"{self.name} belongs to the process that opened it; in this fork the {noun} can "
                "be searched, and its copy() can be changed"
            )

    def require_writable(self) -> None:
        """Raise `StorageError` if nothing can be added here."""
        self.require_own()
        if self.storage is not None and self.storage.read_only:
            raise StorageError(f"{self.name} {self.storage.read_only}")

    def new(self, folder: str) -> Location:
        """Name a new group in a folder, and begin it."""
        if self.storage is None:
            self.storage = temporary_folder()
        path = f"{folder}/{self._next:08d}"
        self._next += 1
        if not self.storage.shared:
            self.storage.remove(path)  # a killed writer may have left it
        self.storage.write(f"{path}/zarr.json", group_json())
        if not self._tidied:
            self._known.add(path)
        return Location.new(self.storage, path)

    def open(self, storage: Storage, empty: M) -> M:
        """Read the manifest, or begin a directory with an empty one."""
        self.storage = storage
        return self._opened(self.format.read(storage) or self.format.begin(storage, empty))

    def begin(self, storage: Storage, empty: M) -> M:
        """Begin a directory with an empty manifest."""
        return self.take_over(storage, self.format.begin(storage, empty))

    def load(self, storage: Storage) -> M:
        """Read the manifest of a directory that exists.

        Raises
        ------
        StorageError
            There is none, or it cannot be read.
        """
        return self.take_over(storage, self.format.load(storage))

    def take_over(self, storage: Storage, file: ManifestFile[M]) -> M:
        """Go on from a manifest that was read."""
        self.storage = storage
        return self._opened(file)

    def _opened(self, file: ManifestFile[M]) -> M:
        manifest, self._directory_id = file
        self._known = manifest.paths()
        self._tidied = False
        # Groups that a failed commit began may still be removed, by their names.
        self._names_taken = manifest.next_name
        first = self._names_taken + (secrets.randbelow(SPREAD) if self._is_shared else 0)
        self._next = max(self._next, first)
        return manifest

    def commit(self, manifest: M, groups: Sequence[ArrayGroup]) -> None:
        """Replace the manifest by one that names `groups`, then release all others."""
        assert self.storage is not None
        self._require_there(groups if self.storage.local else [])
        # Before the manifest is written: if that fails, either of the two may be on the disk.
        for group in groups:
            group.keep()
        before = self._kept
        self._kept = [*before, *(group for group in groups if group not in before)]
        self.format.write(self.storage, ManifestFile(manifest, self._directory_id))
        for group in self._kept:
            if group not in groups:
                group.release()
        self._kept = list(groups)
        if not self._tidied:
            self.tidy(manifest, groups)

    def tidy(self, manifest: M, groups: Sequence[ArrayGroup]) -> None:
        """Remove what a killed writer left beside the `groups` of a manifest.

        What cannot be removed now is left to the next commit: it harms nobody.
        """
        assert self.storage is not None
        try:
            below = self._names_taken if self._is_shared else None
            remove_leftovers(self.storage, manifest.folders(), groups, self._known, below=below)
            self._tidied = True
        except StorageError as error:
            LOG.warning("files of a killed writer are left there: %s", error)

    def _require_there(self, groups: Sequence[ArrayGroup]) -> None:
        assert self.storage is not None
        if gone := self.storage.missing([f"{group.path}/zarr.json" for group in groups]):
            noun = self.format.noun
            raise StorageError(
                f"{gone} of {self.name} was removed while the {noun} was open; put it back, or "
                f"copy the {noun} into another directory"
            )

    def keep(self, *groups: ArrayGroup) -> None:
        """Take over groups that the manifest names."""
        self._kept += groups

    def hold(self, groups: Sequence[ArrayGroup]) -> None:
        """Take over groups that the manifest names, in place of all others."""
        self._kept = list(groups)

    def close(self) -> None:
        """Let another writer in; a temporary folder goes with its last user."""
        self.closed = self.name
        self._kept = []
        if self.storage is not None:
            self.storage.close()
            self.storage = None
