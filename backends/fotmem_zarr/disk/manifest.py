"""The manifest: what a store holds, and what must be true of it."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fotmem.errors import OptionError
from fotmem_zarr.disk.limits import BLOCK_ROWS, BLOCKS, CLUSTER, MAX_BUCKETS, MAX_SHARD
from fotmem_zarr.disk.storage import Storage

Number = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[int, Field(ge=1, le=2**62)]
Name = Annotated[str, Field(pattern=r"^[0-9]{8,20}$")]
Generation = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Strict(BaseModel):
    """Accepts no conversion and no unknown field: the file may come from a stranger."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entry(_Strict):
    name: Name
    """Name of its folder."""
    generation: Generation
    """Drawn at random when the group was begun; the checksums of its chunks cover it."""
    first: Number
    """Its first row."""


class PartEntry(_Entry):
    """A part of the log."""


class PieceEntry(_Entry):
    """Rows after the last whole block of the log."""

    rows: Positive

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.rows


class SegmentEntry(_Entry):
    """Rows in clusters."""

    rows: Annotated[int, Field(ge=1, lt=2**31)]
    level: Annotated[int, Field(ge=0, le=62)]
    clusters: Positive
    shard: Annotated[int, Field(ge=1, le=MAX_SHARD)]
    buckets: Annotated[int, Field(ge=1, le=MAX_BUCKETS)]

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.rows


class Manifest(_Strict):
    """The store as of its last flush. Facts that cannot be true raise `ValidationError`."""

    num_heads: Positive
    head_dim: Positive
    dtype: Literal["float32", "float16", "bfloat16"]
    block: Annotated[int, Field(ge=BLOCK_ROWS[0], le=BLOCK_ROWS[1])]
    """Rows of a block of the log."""
    first_id: Number = 0
    rows: Number = 0
    """Rows ever added."""
    forgotten: Number = 0
    logged: Number = 0
    """Rows in the log; the others are in pieces."""
    next_name: Number = 0
    hubs: tuple[tuple[Number, ...], ...] = ()
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
        _require(_is_power_of_two(self.block), "block is not a power of two")
        _require(self.first_id + self.rows <= 2**63 - 1, "ids go beyond int64")
        _require(self.forgotten <= self.rows, "more rows are forgotten than were added")
        self._check_names()
        self._check_log()
        self._check_pieces()
        self._check_segments()
        self._check_hubs()
        return self

    def _check_names(self) -> None:
        names = [entry.name for entry in (*self.log, *self.pieces, *self.segments)]
        _require(len({*names}) == len(names), "two entries have the same name")
        _require(all(int(name) < self.next_name for name in names), "next_name is taken already")
        _require(all(f"{int(name):08d}" == name for name in names), "a name is not a number")

    def _check_log(self) -> None:
        whole, size = self.rows // self.block * self.block, BLOCKS * self.block
        _require(self.logged % self.block == 0, "logged is not a multiple of block")
        _require(
            self.logged == whole or (self.logged < whole and self.live >= whole),
            "logged is not the number of rows in whole blocks",
        )
        firsts = [entry.first for entry in self.log]
        _require(all(first % self.block == 0 for first in firsts), "a part begins inside a block")
        _require(
            all(0 < later - first <= size for first, later in pairwise(firsts)),
            "the parts of the log do not follow one another",
        )
        if firsts:
            _require(firsts[0] + size > self.forgotten, "the log holds forgotten rows only")
            _require(firsts[-1] < self.logged <= firsts[-1] + size, "the log ends elsewhere")
        if self.live < self.logged:
            _require(bool(firsts) and firsts[0] <= self.live, "the log lacks rows")

    def _check_pieces(self) -> None:
        end = self.rows // self.block * self.block
        for piece in self.pieces:
            _require(piece.first == end, "the pieces do not follow the log")
            end = piece.end
        _require(end == self.rows, "the pieces do not end at the last row")

    def _check_segments(self) -> None:
        for entry in self.segments:
            _require(_is_power_of_two(entry.shard), "a shard is not a power of two")
            _require(
                entry.rows <= entry.clusters * CLUSTER and entry.clusters <= entry.rows,
                "the clusters of a segment do not fit its rows",
            )
        for entry, later in pairwise(self.segments):
            _require(entry.end == later.first, "the segments do not follow one another")
            _require(entry.level >= later.level, "a later segment has a higher level")
        if self.segments:
            first, last = self.segments[0], self.segments[-1]
            _require(first.first <= self.forgotten < first.end, "the segments lack rows")
            _require(last.end <= self.logged, "a segment has rows that are not in the log")
            _require(last.end % self.block == 0, "the segments end inside a block")
            _require(len({entry.buckets for entry in self.segments}) == 1, "buckets differ")

    def _check_hubs(self) -> None:
        _require(len(self.hubs) in (0, self.num_heads), "hubs are not those of num_heads heads")
        for rows in self.hubs:
            _require(all(row < later for row, later in pairwise(rows)), "hubs do not ascend")
            _require(not rows or rows[-1] < self.rows, "a hub is beyond the rows")

    def paths(self) -> set[str]:
        """Return the paths of the groups that it names."""
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


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
