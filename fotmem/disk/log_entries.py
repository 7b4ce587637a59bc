"""What a manifest states about a log, and what must be true of it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

BLOCK_ROWS = (16, 2048)
"""Least and most rows of a block; a power of two."""
BLOCKS = 16
"""Blocks of a part of the log."""

Number = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[int, Field(ge=1, le=2**62)]
Name = Annotated[str, Field(pattern=r"^[0-9]{8,20}$")]
Generation = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
BlockRows = Annotated[int, Field(ge=BLOCK_ROWS[0], le=BLOCK_ROWS[1])]


class Strict(BaseModel):
    """Accepts no conversion and no unknown field: the file may come from a stranger."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GroupEntry(Strict):
    """A group of arrays."""

    name: Name
    """Name of its folder."""
    generation: Generation
    """Drawn at random when the group was begun; the checksums of its chunks cover it."""
    first: Number
    """Its first row."""


class PartEntry(GroupEntry):
    """A part of the log."""


class PieceEntry(GroupEntry):
    """Rows after the last whole block of the log."""

    rows: Positive

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.rows


def require(condition: bool, otherwise: str) -> None:
    """Raise `ValueError` unless a condition holds."""
    if not condition:
        raise ValueError(otherwise)


def is_power_of_two(number: int) -> bool:
    """Return whether a number is 1, 2, 4 and so on (or 0)."""
    return number & (number - 1) == 0


def check_names(entries: Sequence[GroupEntry], next_name: int) -> None:
    """Raise `ValueError` unless the names of groups are different numbers below `next_name`."""
    names = [entry.name for entry in entries]
    require(len({*names}) == len(names), "two entries have the same name")
    require(all(int(name) < next_name for name in names), "next_name is taken already")
    require(all(f"{int(name):08d}" == name for name in names), "a name is not a number")


def check_parts(
    parts: Sequence[PartEntry], *, block: int, rows: int, logged: int, forgotten: int
) -> None:
    """Raise `ValueError` unless parts hold the whole blocks of the rows that are not forgotten.

    Parameters
    ----------
    parts : sequence of PartEntry
    block : int
        Rows of a block.
    rows : int
        Rows ever added.
    logged : int
        Rows in parts; the others are in pieces.
    forgotten : int
        Rows that are forgotten.
    """
    whole, size, live = rows // block * block, BLOCKS * block, forgotten // block * block
    require(logged % block == 0, "logged is not a multiple of block")
    require(
        logged == whole or (logged < whole and live >= whole),
        "logged is not the number of rows in whole blocks",
    )
    firsts = [entry.first for entry in parts]
    require(all(first % block == 0 for first in firsts), "a part begins inside a block")
    require(
        all(0 < later - first <= size for first, later in pairwise(firsts)),
        "the parts of the log do not follow one another",
    )
    if firsts:
        require(firsts[0] + size > forgotten, "the log holds forgotten rows only")
        require(firsts[-1] < logged <= firsts[-1] + size, "the log ends elsewhere")
    if live < logged:
        require(bool(firsts) and firsts[0] <= live, "the log lacks rows")


def check_pieces(pieces: Sequence[PieceEntry], *, block: int, rows: int) -> None:
    """Raise `ValueError` unless pieces hold the rows after the last whole block."""
    end = rows // block * block
    for piece in pieces:
        require(piece.first == end, "the pieces do not follow the log")
        end = piece.end
    require(end == rows, "the pieces do not end at the last row")
