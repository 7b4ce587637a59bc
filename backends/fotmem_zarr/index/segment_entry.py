"""What is stated about segments and hub keys, and what must be true of it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from fotmem.disk import GroupEntry, Number, Positive, is_power_of_two, require
from fotmem_zarr.index.limits import CLUSTER, MAX_BUCKETS, MAX_SHARD

Hubs = tuple[tuple[Number, ...], ...]
"""Rows of the hub keys of each head, ascending."""


class SegmentEntry(GroupEntry):
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


def check_segments(
    segments: Sequence[SegmentEntry], *, block: int, forgotten: int, logged: int
) -> None:
    """Raise `ValueError` unless segments hold rows of a log, from the first live one on."""
    for entry in segments:
        require(is_power_of_two(entry.shard), "a shard is not a power of two")
        require(
            entry.rows <= entry.clusters * CLUSTER and entry.clusters <= entry.rows,
            "the clusters of a segment do not fit its rows",
        )
    for entry, later in pairwise(segments):
        require(entry.end == later.first, "the segments do not follow one another")
        require(entry.level >= later.level, "a later segment has a higher level")
    if segments:
        first, last = segments[0], segments[-1]
        require(first.first <= forgotten < first.end, "the segments lack rows")
        require(last.end <= logged, "a segment has rows that are not in the log")
        require(last.end % block == 0, "the segments end inside a block")
        require(len({entry.buckets for entry in segments}) == 1, "buckets differ")


def check_hubs(hubs: Hubs, *, heads: int, rows: int) -> None:
    """Raise `ValueError` unless these may be the hub keys among the first `rows` rows."""
    require(len(hubs) in (0, heads), "hubs are not those of num_heads heads")
    for each in hubs:
        require(all(row < later for row, later in pairwise(each)), "hubs do not ascend")
        require(not each or each[-1] < rows, "a hub is beyond the rows")
