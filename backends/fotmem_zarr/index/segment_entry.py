"""What a manifest states about a segment."""

from typing import Annotated

from pydantic import Field

from fotmem.disk import GroupEntry, Positive
from fotmem_zarr.index.limits import MAX_BUCKETS, MAX_SHARD


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
