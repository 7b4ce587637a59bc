"""What a store has on disk, by name, and how that becomes durable."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fotmem.errors import StorageError
from fotmem_zarr.budget import Budget
from fotmem_zarr.disk.folder import temporary_folder
from fotmem_zarr.disk.log import Log, Part
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.owned import Owned, Spot
from fotmem_zarr.disk.pieces import Like, Piece
from fotmem_zarr.disk.place import Place
from fotmem_zarr.disk.root import Root, begin, group, read_root, write_root
from fotmem_zarr.disk.sweeping import sweep
from fotmem_zarr.index.segment import Segment


class Files:
    """Makes parts, segments and pieces, and the manifest that names them."""

    def __init__(self, like: Like, budget: Budget) -> None:
        self.like = like
        self.block = budget.block
        """Rows of a block of the log."""
        self.place: Place | None = None
        self.closed = ""
        """The name, once closed."""
        self._shard = budget.shard
        self._next_name = 0
        self._store_id = ""
        self._known: set[str] = set()  # paths that the manifest named when it was opened
        self._first_name = 0  # that this process gave
        self._swept = False
        self.pieces: list[Piece] = []
        self._kept: list[Owned] = []

    def twin(self, budget: Budget) -> "Files":
        """Make the files of a copy, which go to a temporary folder of their own."""
        twin = Files(self.like, budget)
        twin.block = self.block
        return twin

    @property
    def name(self) -> str:
        """Where they are, for messages."""
        return self.place.name if self.place else "the store's temporary folder"

    @property
    def lasting(self) -> bool:
        """Whether a flush has something to do: they outlive the store, and may be written."""
        place = self.place
        return place is not None and place.durable and not (place.read_only or place.inherited)

    def require_own(self) -> None:
        """Raise `StorageError` in a forked process: two would write the same files."""
        if self.place is not None and self.place.inherited:
            raise StorageError(
                f"{self.name} belongs to the process that opened it, of which this is a fork; here "
                "it can be searched, and its copy() be changed"
            )

    def require_writable(self) -> None:
        """Raise `StorageError` if nothing can be added here."""
        self.require_own()
        if self.place is not None and self.place.read_only:
            raise StorageError(f"{self.name} {self.place.read_only}")

    def new_part(self, first: int) -> Part:
        """Begin a part of the log."""
        return Part(self._new("log"), first=first, block=self.block, like=self.like)

    def new_segment(self, first: int, end: int, level: int) -> Segment:
        """Name a segment that is to be built."""
        spot, rows = self._new("segments"), end - first
        return Segment(spot, first=first, rows=rows, level=level, shard=self._shard, like=self.like)

    def _new(self, kind: str) -> Spot:
        if self.place is None:
            self.place = temporary_folder()
        path = f"{kind}/{self._next_name:08d}"
        self._next_name += 1
        self.place.remove(path)  # a writer that was killed may have left it
        self.place.write(f"{path}/zarr.json", group())
        return Spot.new(self.place, path)

    def save_rest(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Make rows from `first` on durable that fill no block, ``[H, n, D]`` each.

        Only new ones are written, and small pieces anew with them: as many bytes as all rows times
        the logarithm of the number of flushes.
        """
        self.pieces = [piece for piece in self.pieces if piece.first >= first]
        end = first + keys.shape[1]
        start = self.pieces[-1].first + self.pieces[-1].rows if self.pieces else first
        if start == end:
            return
        pieces = list(self.pieces)
        while pieces and pieces[-1].rows <= end - start:
            start = pieces.pop().first
        piece = Piece(self._new("tail"), first=start, rows=end - start, like=self.like)
        piece.write(keys[:, start - first :], values[:, start - first :])
        self.pieces = [*pieces, piece]

    def no_rest(self) -> None:
        """Take note that all rows are in blocks of the log."""
        self.pieces = []

    def commit(self, log: Log, segments: Sequence[Segment], **facts: Any) -> None:
        """Replace the manifest, then let go of what it no longer names."""
        assert self.place is not None
        kept: list[Owned] = [*log.parts, *segments, *self.pieces]
        descriptions = [f"{owned.path}/zarr.json" for owned in kept]
        if gone := self.place.missing(descriptions if self.place.local else []):
            raise StorageError(
                f"{gone} of {self.name} was removed while the store was open; put it back, or "
                "copy the store into another directory"
            )
        write_root(self.place, Root(self._manifest(log, segments, facts), self._store_id))
        for owned in kept:
            owned.keep()
        for owned in self._kept:
            if owned not in kept:
                owned.release()
        self._kept = kept
        if not self._swept:
            sweep(self.place, kept, self._known, range(self._first_name, self._next_name))
            self._swept = True

    def _manifest(self, log: Log, segments: Sequence[Segment], facts: dict[str, Any]) -> Manifest:
        return Manifest(
            **self._layer().model_dump(include={"num_heads", "head_dim", "dtype", "block"}),
            **facts,
            logged=log.end,
            next_name=self._next_name,
            log=tuple(part.entry() for part in log.parts),
            pieces=tuple(piece.entry() for piece in self.pieces),
            segments=tuple(segment.entry() for segment in segments),
        )

    def _layer(self) -> Manifest:
        heads, head_dim, dtype = self.like
        name: Any = str(dtype).removeprefix("torch.")
        return Manifest(num_heads=heads, head_dim=head_dim, dtype=name, block=self.block)

    def open(self, place: Place) -> Manifest:
        """Read the manifest, or begin one."""
        self.place = place
        manifest, self._store_id = read_root(place) or begin(place, self._layer())
        manifest.require(self._layer(), place)
        self.block, self._known = manifest.block, manifest.paths()
        self._first_name = self._next_name = manifest.next_name
        return manifest

    def keep(self, *owned: Owned) -> None:
        """Take note of what the manifest names."""
        self._kept += owned

    def close(self) -> None:
        """Let another writer in; a temporary folder goes away with its last user."""
        self.closed = self.name
        self._kept, self.pieces = [], []
        if self.place is not None:
            self.place.close()
            self.place = None
