"""A group of arrays, and when its files are removed."""

import contextlib
import secrets
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch

from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.storage import Storage
from fotmem.errors import StorageError


class Column(NamedTuple):
    """What rows have: an array ``[heads, rows, *rest]``."""

    name: str
    heads: int
    rest: tuple[int, ...]
    dtype: torch.dtype


class LayerShape(NamedTuple):
    """Heads ``H``, head dimension ``D`` and dtype of a layer."""

    heads: int
    head_dim: int
    dtype: torch.dtype

    def columns(self) -> tuple[Column, Column]:
        """Return the columns of its rows: keys and values."""
        heads, head_dim, dtype = self
        return Column("keys", heads, (head_dim,), dtype), Column(
            "values", heads, (head_dim,), dtype
        )


class Location(NamedTuple):
    """The place of a group, and the generation that tells it from earlier groups there."""

    storage: Storage
    path: str
    generation: str
    in_manifest: bool = True
    """Whether the manifest names it."""

    @classmethod
    def new(cls, storage: Storage, path: str) -> "Location":
        """Draw a generation for a new group."""
        return cls(storage, path, secrets.token_hex(8), in_manifest=False)


class ArrayGroup(ABC):
    """Arrays of rows from `first` on. Its files go with this object, unless the manifest names it.

    Parameters
    ----------
    location : Location
    first : int
        First row.
    """

    def __init__(self, location: Location, *, first: int) -> None:
        self.storage, self.path = location.storage, location.path
        self.generation = location.generation
        self.first = first
        self._finalizer: weakref.finalize[[Storage, str], ArrayGroup] | None = None
        if not location.in_manifest:
            self.release()

    @property
    def name(self) -> str:
        """Name of its folder, for the manifest."""
        return self.path.rpartition("/")[2]

    @abstractmethod
    def arrays(self) -> Sequence[ChunkedArray]:
        """List its arrays."""

    def files(self) -> dict[str, set[str]]:
        """Return the names of its files, by folder."""
        return {array.path: array.files() for array in self.arrays()}

    def keep(self) -> None:
        """Keep the files from now on: the manifest names the group."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = None

    def release(self) -> None:
        """Remove the files as soon as no search and no copy uses this object."""
        if self._finalizer is None:
            self._finalizer = weakref.finalize(self, _remove, self.storage, self.path)
            self.storage.released.add(self)

    def discard(self) -> None:
        """Remove the files of a released group now."""
        if self._finalizer is not None:
            self._finalizer()

    def new_array(
        self,
        column: Column,
        rows: int,
        *,
        chunk_rows: int,
        chunks_per_shard: int = 1,
        heads_per_shard: int = 1,
    ) -> ChunkedArray:
        """Describe the array of a column in the group."""
        name, heads, rest, dtype = column
        return ChunkedArray(
            storage=self.storage,
            path=f"{self.path}/{name}",
            generation=self.generation,
            first=self.first,
            heads=heads,
            rows=rows,
            rest=rest,
            dtype=dtype,
            chunk_rows=chunk_rows,
            chunks_per_shard=chunks_per_shard,
            heads_per_shard=heads_per_shard,
        )


def _remove(storage: Storage, path: str) -> None:
    if storage.inherited:  # the parent process still uses them
        return
    if storage.is_closed:  # another writer may have given the name to a group of its own
        return
    with contextlib.suppress(StorageError):  # leftovers are removed after the next opening
        storage.remove(path)
