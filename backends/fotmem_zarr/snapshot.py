"""What a search sees."""

from typing import NamedTuple

from fotmem_zarr.index.recent_rows import RecentRows
from fotmem_zarr.index.segment import Segment


class Snapshot(NamedTuple):
    """All rows of a store: each lies in a segment or among the recent rows. Replaced as a whole."""

    segments: tuple[Segment, ...] = ()
    recent: RecentRows = RecentRows()
    end: int = 0
    """Rows ever added."""

    @property
    def logged(self) -> int:
        """Rows before this one are looked up in the log, the others among the recent rows."""
        return self.recent.blocks[0].first if self.recent.blocks else self.end
