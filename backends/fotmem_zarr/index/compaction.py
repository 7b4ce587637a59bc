"""Making and merging segments, in steps between adds."""

from collections.abc import Sequence
from typing import NamedTuple

from fotmem_zarr.index.segment import Segment
from fotmem_zarr.index.segment_writer import Steps

FAN_OUT = 4
"""Segments of one level that are merged into one of the next."""
SPEED = 2
"""Keys that each job handles per added key: a job ends before its rows have come once more."""


class SegmentJob:
    """Makes one segment, from recent rows (no sources) or from other segments."""

    def __init__(self, segment: Segment, steps: Steps, sources: tuple[Segment, ...] = ()) -> None:
        self.segment = segment
        self.sources = sources
        self._steps = steps
        self._credit = 0

    def advance(self, keys: int) -> bool:
        """Do the work that is due when `keys` keys are added; True when the segment is complete."""
        self._credit += SPEED * keys
        while self._credit > 0:
            done = next(self._steps, None)
            if done is None:
                return True
            self._credit -= done
        return False

    def complete(self) -> None:
        """Do all that is left."""
        for _ in self._steps:
            pass


class MergePlan(NamedTuple):
    """Segments to be merged into one of a level."""

    segments: tuple[Segment, ...]
    level: int


def next_merge(segments: Sequence[Segment], busy: Sequence[Segment]) -> MergePlan | None:
    """Return the oldest ``FAN_OUT`` free segments of the lowest level that has this many."""
    free: dict[int, list[Segment]] = {}
    for segment in segments:
        if segment not in busy:
            free.setdefault(segment.level, []).append(segment)
    working = {segment.level for segment in busy}
    for level, found in sorted(free.items()):
        if level not in working and len(found) >= FAN_OUT:
            return MergePlan(tuple(found[:FAN_OUT]), level + 1)
    return None
