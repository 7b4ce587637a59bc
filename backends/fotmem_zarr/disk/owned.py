"""Files that nothing but one object refers to, removed with it."""

import contextlib
import secrets
import weakref
from collections.abc import Sequence
from typing import NamedTuple

from fotmem.errors import StorageError
from fotmem_zarr.disk.chunked_array import Rows
from fotmem_zarr.disk.place import Place


class Spot(NamedTuple):
    """Where something lies, and which of all that ever lay there it is."""

    place: Place
    path: str
    generation: str
    named: bool = True
    """Whether the manifest names it."""

    @classmethod
    def new(cls, place: Place, path: str) -> "Spot":
        """Begin another one."""
        return cls(place, path, secrets.token_hex(8), named=False)


class Owned:
    """Has the files at a spot. They go when it goes, unless the manifest names them."""

    def __init__(self, spot: Spot) -> None:
        self.place, self.path, self.generation = spot.place, spot.path, spot.generation
        self._finalizer: weakref.finalize[[Place, str], Owned] | None = None
        if not spot.named:
            self.release()

    @property
    def name(self) -> str:
        """Its folder, for the manifest."""
        return self.path.rpartition("/")[2]

    def arrays(self) -> Sequence[Rows]:
        """List its arrays."""
        raise NotImplementedError

    def files(self) -> dict[str, set[str]]:
        """Name the files that belong there, by folder."""
        return {rows.path: rows.files() for rows in self.arrays()}

    def keep(self) -> None:
        """Leave the files: the manifest names them now."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = None

    def release(self) -> None:
        """Remove the files as soon as no search and no copy needs them."""
        if self._finalizer is None:
            self._finalizer = weakref.finalize(self, _remove, self.place, self.path)


def _remove(place: Place, path: str) -> None:
    if place.inherited:  # the parent process still has them
        return
    with contextlib.suppress(StorageError):  # a leftover is removed when the store is next opened
        place.remove(path)
