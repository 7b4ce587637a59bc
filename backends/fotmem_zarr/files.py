"""The files of a store: names for new groups, and the commit that makes groups durable."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fotmem.errors import StorageError
from fotmem_zarr.budget import Budget
from fotmem_zarr.disk.array_group import ArrayGroup, LayerShape, Location
from fotmem_zarr.disk.folder import temporary_folder
from fotmem_zarr.disk.leftovers import remove_leftovers
from fotmem_zarr.disk.log import Log, LogPart
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.manifest_file import (
    ManifestFile,
    begin_store,
    read_manifest,
    write_manifest,
)
from fotmem_zarr.disk.storage import Storage
from fotmem_zarr.disk.tail_piece import TailPiece
from fotmem_zarr.disk.zarr_metadata import group_json
from fotmem_zarr.index.recent_rows import Block
from fotmem_zarr.index.segment import Segment


class Files:
    """Makes parts of the log, segments and pieces, and the manifest that names them."""

    def __init__(self, layer: LayerShape, budget: Budget) -> None:
        self.layer = layer
        self.block = budget.block
        """Rows of a block of the log."""
        self.storage: Storage | None = None
        self.closed = ""
        """The name of the storage, once the store is closed."""
        self._shard = budget.shard
        self._next_name = 0
        self._store_id = ""
        self._known: set[str] = set()  # paths that the manifest named when it was opened
        self._first_name = 0  # first name that this process gave
        self._tidied = False
        self.pieces: list[TailPiece] = []
        self._kept: list[ArrayGroup] = []

    def twin(self, budget: Budget) -> "Files":
        """Make the files of a copy, which go to a temporary folder of their own."""
        twin = Files(self.layer, budget)
        twin.block = self.block
        return twin

    @property
    def name(self) -> str:
        """Where the files are, for messages."""
        return self.storage.name if self.storage else "the store's temporary folder"

    @property
    def lasting(self) -> bool:
        """Whether a flush has anything to do: the files outlive the store, and can be written."""
        found = self.storage
        return found is not None and found.durable and not (found.read_only or found.inherited)

    def require_own(self) -> None:
        """Raise `StorageError` in a forked process: two would write the same files."""
        if self.storage is not None and self.storage.inherited:
            raise StorageError(
                f"{self.name} belongs to the process that opened it; in this fork the store can "
                "be searched, and its copy() can be changed"
            )

    def require_writable(self) -> None:
        """Raise `StorageError` if nothing can be added here."""
        self.require_own()
        if self.storage is not None and self.storage.read_only:
            raise StorageError(f"{self.name} {self.storage.read_only}")

    def new_part(self, first: int) -> LogPart:
        """Begin a part of the log."""
        return LogPart(self._new("log"), first=first, block=self.block, layer=self.layer)

    def new_segment(self, first: int, end: int, level: int) -> Segment:
        """Begin a segment."""
        return Segment(
            self._new("segments"),
            first=first,
            rows=end - first,
            level=level,
            shard=self._shard,
            layer=self.layer,
        )

    def _new(self, kind: str) -> Location:
        if self.storage is None:
            self.storage = temporary_folder()
        path = f"{kind}/{self._next_name:08d}"
        self._next_name += 1
        self.storage.remove(path)  # a killed writer may have left it
        self.storage.write(f"{path}/zarr.json", group_json())
        return Location.new(self.storage, path)

    def write_block(self, log: Log, block: Block) -> None:
        """Write a whole block to the log, unless it is there."""
        log.write(
            block.first, block.keys, block.values, storage=self.storage, new_part=self.new_part
        )

    def save_rest(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Write rows ``[H, n, D]`` from `first` on that fill no block.

        Only new rows are written, together with small pieces before them. The bytes written in all
        grow as the rows times the logarithm of the number of flushes.
        """
        self.pieces = [piece for piece in self.pieces if piece.first >= first]
        end = first + keys.shape[1]
        start = self.pieces[-1].end if self.pieces else first
        if start == end:
            return
        pieces = list(self.pieces)
        while pieces and pieces[-1].rows <= end - start:
            start = pieces.pop().first
        piece = TailPiece(self._new("tail"), first=start, rows=end - start, layer=self.layer)
        piece.write(keys[:, start - first :], values[:, start - first :])
        self.pieces = [*pieces, piece]

    def drop_rest(self) -> None:
        """Drop the pieces: all rows are in blocks of the log."""
        self.pieces = []

    def commit(self, log: Log, segments: Sequence[Segment], **facts: Any) -> None:
        """Replace the manifest, then release the groups that it no longer names."""
        assert self.storage is not None
        kept: list[ArrayGroup] = [*log.parts, *segments, *self.pieces]
        self._require_there(kept if self.storage.local else [])
        manifest = self._manifest(log, segments, facts)
        write_manifest(self.storage, ManifestFile(manifest, self._store_id))
        for group in kept:
            group.keep()
        for group in self._kept:
            if group not in kept:
                group.release()
        self._kept = kept
        if not self._tidied:
            given = range(self._first_name, self._next_name)
            remove_leftovers(self.storage, kept, self._known, given)
            self._tidied = True

    def _require_there(self, groups: Sequence[ArrayGroup]) -> None:
        assert self.storage is not None
        if gone := self.storage.missing([f"{group.path}/zarr.json" for group in groups]):
            raise StorageError(
                f"{gone} of {self.name} was removed while the store was open; put it back, or "
                "copy the store into another directory"
            )

    def _manifest(self, log: Log, segments: Sequence[Segment], facts: dict[str, Any]) -> Manifest:
        return Manifest(
            **self._empty().model_dump(include={"num_heads", "head_dim", "dtype", "block"}),
            **facts,
            logged=log.end,
            next_name=self._next_name,
            log=tuple(part.entry() for part in log.parts),
            pieces=tuple(piece.entry() for piece in self.pieces),
            segments=tuple(segment.entry() for segment in segments),
        )

    def _empty(self) -> Manifest:
        heads, head_dim, dtype = self.layer
        name: Any = str(dtype).removeprefix("torch.")
        return Manifest(num_heads=heads, head_dim=head_dim, dtype=name, block=self.block)

    def open(self, storage: Storage) -> Manifest:
        """Read the manifest, or begin a store."""
        self.storage = storage
        file = read_manifest(storage) or begin_store(storage, self._empty())
        manifest, self._store_id = file
        manifest.require_layer(self._empty(), storage)
        self.block, self._known = manifest.block, manifest.paths()
        self._first_name = self._next_name = manifest.next_name
        return manifest

    def keep(self, *groups: ArrayGroup) -> None:
        """Take over groups that the manifest names."""
        self._kept += groups

    def close(self) -> None:
        """Let another writer in; a temporary folder goes with its last user."""
        self.closed = self.name
        self._kept, self.pieces = [], []
        if self.storage is not None:
            self.storage.close()
            self.storage = None
