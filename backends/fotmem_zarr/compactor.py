"""Turns recent rows into segments, and small segments into larger ones, while rows are added."""

from collections.abc import Sequence

from fotmem.disk import Log
from fotmem_zarr.budget import Budget
from fotmem_zarr.files import Files
from fotmem_zarr.index.compaction import SegmentJob, next_merge
from fotmem_zarr.index.recent_rows import Block
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.index.segment_sources import SegmentSource, source_of_blocks, source_of_segments
from fotmem_zarr.index.segment_writer import Steps, write_segment
from fotmem_zarr.snapshot import Snapshot


class Compactor:
    """The jobs of a store. A job that is dropped removes what it wrote.

    Parameters
    ----------
    files : Files
        Where segments and parts of the log are written.
    budget : Budget
    """

    def __init__(self, files: Files, budget: Budget) -> None:
        self.files = files
        self.budget = budget
        self._jobs: list[SegmentJob] = []

    def clear(self) -> None:
        """Drop all jobs; they begin again with the next add."""
        self._jobs.clear()

    def advance(self, now: Snapshot, log: Log, *, forgotten: int, rows: int) -> Snapshot:
        """Do the work that is due when `rows` rows are added; return the new snapshot."""
        self._begin(now, log, forgotten)
        for job in list(self._jobs):
            if job.advance(rows * self.budget.num_heads):
                self._jobs.remove(job)
                now = _published(job, now, forgotten)
        return now

    def finish(self, now: Snapshot, log: Log, *, forgotten: int) -> Snapshot:
        """Put all whole blocks into segments, if there are any segments: no more rows come soon."""
        while True:
            self._begin(now, log, forgotten)
            blocks = [block for block in now.recent.blocks if block.end % self.files.block == 0]
            if not self._jobs and now.segments and blocks:
                self._begin_segment(now, log, blocks)
            if not self._jobs:
                return now
            for job in list(self._jobs):
                job.complete()
                self._jobs.remove(job)
                now = _published(job, now, forgotten)

    def _begin(self, now: Snapshot, log: Log, forgotten: int) -> None:
        blocks = now.recent.blocks
        count = -(-self.budget.segment // self.files.block)
        if len(blocks) > count and all(job.sources for job in self._jobs):
            self._begin_segment(now, log, blocks[:count])
        busy = [segment for job in self._jobs for segment in job.sources]
        if merge := next_merge(now.segments, busy):
            source = source_of_segments(merge.segments, forgotten, self.budget.clustering)
            segment = self.files.new_segment(source.first, source.end, merge.level)
            steps = write_segment(source, segment)
            self._jobs.append(SegmentJob(segment, steps, merge.segments))

    def _begin_segment(self, now: Snapshot, log: Log, blocks: Sequence[Block]) -> None:
        segment = self.files.new_segment(blocks[0].first, blocks[-1].end, 0)
        like = now.segments[0] if now.segments else None
        source = source_of_blocks(blocks, like, self.budget.clustering)
        steps = _written(blocks, source, segment, log, self.files)
        self._jobs.append(SegmentJob(segment, steps))


def _written(
    blocks: Sequence[Block], source: SegmentSource, segment: Segment, log: Log, files: Files
) -> Steps:
    """Write recent rows to the log, and then as a segment."""
    # No method: its steps would keep the compactor alive, and so the lock of the directory.
    for block in blocks:
        files.write_block(log, block)
        # Writing takes about as long as clustering a quarter of the keys.
        yield segment.layer.heads * log.block // 4
    yield from write_segment(source, segment)


def _published(job: SegmentJob, now: Snapshot, forgotten: int) -> Snapshot:
    """Put a job's segment in the place of what it was made from."""
    segments, recent, end = now
    kept = [segment for segment in segments if segment not in job.sources]
    if job.segment.end > forgotten:
        kept.append(job.segment)
    if not job.sources:
        recent = recent.drop(job.segment.end)
    return Snapshot(tuple(sorted(kept, key=lambda segment: segment.first)), recent, end)
