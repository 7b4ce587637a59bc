"""The manifest: what a store holds, and what must be true of it."""

from typing import Literal, Self

from pydantic import model_validator

from fotmem.disk import (
    BlockRows,
    GroupManifest,
    Number,
    PartEntry,
    PieceEntry,
    Positive,
    Storage,
    check_names,
    check_parts,
    check_pieces,
    is_power_of_two,
    require,
)
from fotmem.errors import OptionError
from fotmem_zarr.index.segment_entry import Hubs, SegmentEntry, check_hubs, check_segments

FOLDERS = ("log", "segments", "tail")


class Manifest(GroupManifest):
    """The store as of its last flush. Facts that cannot be true raise `ValidationError`."""

    num_heads: Positive
    head_dim: Positive
    dtype: Literal["float32", "float16", "bfloat16"]
    block: BlockRows
    """Rows of a block of the log."""
    first_id: Number = 0
    rows: Number = 0
    """Rows ever added."""
    forgotten: Number = 0
    logged: Number = 0
    """Rows in the log; the others are in pieces."""
    hubs: Hubs = ()
    """Rows of the hub keys of each head, ascending."""
    log: tuple[PartEntry, ...] = ()
    pieces: tuple[PieceEntry, ...] = ()
    segments: tuple[SegmentEntry, ...] = ()

    @property
    def live(self) -> int:
        """First row of the block that holds the oldest row which is not forgotten."""
        return self.forgotten // self.block * self.block

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        require(is_power_of_two(self.block), "block is not a power of two")
        require(self.first_id + self.rows <= 2**63 - 1, "ids go beyond int64")
        require(self.forgotten <= self.rows, "more rows are forgotten than were added")
        check_names((*self.log, *self.pieces, *self.segments), self.next_name)
        check_parts(
            self.log,
            block=self.block,
            rows=self.rows,
            logged=self.logged,
            forgotten=self.forgotten,
        )
        check_pieces(self.pieces, block=self.block, rows=self.rows)
        check_segments(
            self.segments, block=self.block, forgotten=self.forgotten, logged=self.logged
        )
        check_hubs(self.hubs, heads=self.num_heads, rows=self.rows)
        return self

    def folders(self) -> tuple[str, ...]:
        return FOLDERS

    def paths(self) -> set[str]:
        kinds = {"log": self.log, "segments": self.segments, "tail": self.pieces}
        return {f"{kind}/{entry.name}" for kind, entries in kinds.items() for entry in entries}

    def layer(self) -> str:
        """Describe the layer, for messages."""
        return f"H={self.num_heads} heads of D={self.head_dim} in {self.dtype}"

    def require_layer(self, other: "Manifest", storage: Storage) -> None:
        """Raise `OptionError` unless both describe the same kind of layer."""
        if self.layer() != other.layer():
            raise OptionError(
                f"{storage.name} holds {self.layer()}, but the caller asked for {other.layer()}; "
                "ask for what it holds, or choose another directory"
            )
