"""The files of a store: its log, its segments, and the manifest that names them."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fotmem.disk import (
    GroupFiles,
    LayerShape,
    Log,
    LogPart,
    ManifestFormat,
    Storage,
    TailPiece,
    grown_tail,
)
from fotmem_zarr.budget import Budget
from fotmem_zarr.index.recent_rows import Block
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.manifest import FOLDERS, Manifest

FORMAT = ManifestFormat(
    name="fotmem zarr store",
    version=2,
    kind=Manifest,
    title="a zarr store of fotmem",
    noun="store",
    own_folders=re.compile("|".join(FOLDERS)),
    id_folder="log",
)


class Files(GroupFiles[Manifest]):
    """Makes parts of the log, segments and pieces, and the manifest that names them."""

    def __init__(self, layer: LayerShape, budget: Budget) -> None:
        super().__init__(FORMAT)
        self.layer = layer
        self.block = budget.block
        """Rows of a block of the log."""
        self._shard = budget.shard
        self.pieces: list[TailPiece] = []

    def twin(self, budget: Budget) -> "Files":
        """Make the files of a copy, which go to a temporary folder of their own."""
        twin = Files(self.layer, budget)
        twin.block = self.block
        return twin

    def new_segment(self, first: int, end: int, level: int) -> Segment:
        """Begin a segment."""
        return Segment(
            self.new("segments"),
            first=first,
            rows=end - first,
            level=level,
            shard=self._shard,
            layer=self.layer,
        )

    def write_block(self, log: Log, block: Block) -> None:
        """Write a whole block to the log, unless it is there."""
        rows = (block.keys, block.values)
        log.write(block.first, rows, storage=self.storage, new_part=self._new_part)

    def save_rest(self, first: int, keys: Tensor, values: Tensor) -> None:
        """Write rows ``[H, n, D]`` from `first` on that fill no block."""
        self.pieces = grown_tail(self.pieces, first, (keys, values), self._new_piece)

    def drop_rest(self) -> None:
        """Drop the pieces: all rows are in blocks of the log."""
        self.pieces = []

    def save(self, log: Log, segments: Sequence[Segment], **facts: Any) -> None:
        """Commit a manifest of all groups."""
        manifest = Manifest(
            **self._empty().model_dump(include={"num_heads", "head_dim", "dtype", "block"}),
            **facts,
            logged=log.end,
            next_name=self.next_name,
            log=tuple(part.entry() for part in log.parts),
            pieces=tuple(piece.entry() for piece in self.pieces),
            segments=tuple(segment.entry() for segment in segments),
        )
        self.commit(manifest, [*log.parts, *segments, *self.pieces])

    def load(self, storage: Storage) -> Manifest:
        """Read the manifest, or begin a store."""
        manifest = self.open(storage, self._empty())
        manifest.require_layer(self._empty(), storage)
        self.block = manifest.block
        return manifest

    def close(self) -> None:
        super().close()
        self.pieces = []

    def _new_part(self, first: int) -> LogPart:
        columns = self.layer.columns()
        return LogPart(self.new("log"), first=first, block=self.block, columns=columns)

    def _new_piece(self, first: int, rows: int) -> TailPiece:
        columns = self.layer.columns()
        return TailPiece(self.new("tail"), first=first, rows=rows, columns=columns)

    def _empty(self) -> Manifest:
        heads, head_dim, dtype = self.layer
        name: Any = str(dtype).removeprefix("torch.")
        return Manifest(num_heads=heads, head_dim=head_dim, dtype=name, block=self.block)
