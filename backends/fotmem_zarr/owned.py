"""Files that nothing but one object refers to, removed with it."""

import contextlib
import weakref

from fotmem import StorageError
from fotmem_zarr.place import Place


class Owned:
    """Has the files below a path. They go when it goes, unless the manifest names them."""

    def __init__(self, place: Place, path: str) -> None:
        self.place = place
        self.path = path
        self._finalizer: weakref.finalize[[Place, str], Owned] | None = None
        self.release()

    @property
    def name(self) -> str:
        """Its folder, for the manifest."""
        return self.path.rpartition("/")[2]

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
