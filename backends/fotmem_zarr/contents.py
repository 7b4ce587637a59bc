"""The rows of a store, and how they move from memory to disk."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.errors import StorageError
from fotmem_zarr.budget import Budget
from fotmem_zarr.disk.chunk_cache import Cache
from fotmem_zarr.disk.log import Log
from fotmem_zarr.disk.manifest import Manifest
from fotmem_zarr.disk.opening import open_place
from fotmem_zarr.disk.pieces import Like, Piece
from fotmem_zarr.disk.place import TRANSIENT, Place
from fotmem_zarr.files import Files
from fotmem_zarr.index.compaction import Job, next_merge
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.index.segment_sources import source_of_segments
from fotmem_zarr.index.segment_writer import build, index
from fotmem_zarr.loading import load_log, load_pieces, load_segments
from fotmem_zarr.malloc_trim import trim
from fotmem_zarr.unwritten import Tail


class State(NamedTuple):
    """What a search sees, replaced as a whole: rows are in segments and the log, or in the tail."""

    segments: tuple[Segment, ...] = ()
    tail: Tail = Tail()
    end: int = 0
    """Rows ever taken in."""

    @property
    def logged(self) -> int:
        """Rows before this one are looked up in the log, the others in the tail."""
        return self.tail.blocks[0].first if self.tail.blocks else self.end


class Contents:
    """Rows ``0`` to ``state.end`` of one layer, of which the first are forgotten."""

    def __init__(self, like: Like, budget: Budget) -> None:
        self.like = like
        self.budget = budget
        self.cache = Cache()
        self.files = Files(like, budget)
        self.log = Log(self.files.block)
        self.state = State()
        self.forgotten = 0
        self._jobs: list[Job] = []
        self._share_out()

    def copy(self) -> "Contents":
        """Share all rows; what is added to either goes to files of its own."""
        twin = copy.copy(self)
        twin.files, twin.log, twin._jobs = self.files.twin(self.budget), self.log.copy(), []
        twin.state = self.state._replace(tail=self.state.tail._replace(shared=True))
        return twin

    # Taking in -------------------------------------------------------------------------------

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Take in rows ``[H, n, D]``; if it raises, `restore` what was before."""
        self.files.require_writable()
        self._take_in(keys, values)

    def before(self) -> tuple[State, Log]:
        """Return what `restore` needs."""
        return self.state, self.log.copy()

    def restore(self, before: tuple[State, Log]) -> None:
        """Be as it was before `add`."""
        self._jobs.clear()  # what they began is removed; they begin anew with the next add
        self.state, self.log = before

    def _take_in(self, keys: Tensor, values: Tensor) -> None:
        while keys.shape[1]:
            fits = self.files.block - self.state.end % self.files.block
            # First what may fail, then the rows.
            self._advance(min(fits, keys.shape[1]))
            self._append(keys[:, :fits], values[:, :fits])
            keys, values = keys[:, fits:], values[:, fits:]

    def _append(self, keys: Tensor, values: Tensor) -> None:
        segments, tail, end = self.state
        tail = tail.append(keys, values, first=end, length=self.files.block)
        self.state = State(segments, tail, end + keys.shape[1])

    def _advance(self, rows: int) -> None:
        self._begin_jobs()
        for job in list(self._jobs):
            if job.advance(rows * self.budget.num_heads):
                self._jobs.remove(job)
                self._publish(job)

    def _begin_jobs(self) -> None:
        segments, tail, _ = self.state
        count = -(-self.budget.segment // self.files.block)
        if len(tail.blocks) > count and all(job.sources for job in self._jobs):
            blocks = tail.blocks[:count]
            segment = self.files.new_segment(blocks[0].first, blocks[-1].end, 0)
            like = segments[0] if segments else None
            self._jobs.append(
                Job(segment, index(blocks, segment, like, self.log, self.files, self.budget))
            )
        busy = [segment for job in self._jobs for segment in job.sources]
        if merge := next_merge(segments, busy):
            source = source_of_segments(merge.segments, self.budget, self.forgotten)
            segment = self.files.new_segment(source.first, source.end, merge.level)
            self._jobs.append(Job(segment, build(source, segment), merge.segments))

    def _publish(self, job: Job) -> None:
        segments, tail, end = self.state
        kept = [segment for segment in segments if segment not in job.sources]
        if job.segment.end > self.forgotten:
            kept.append(job.segment)
        if not job.sources:
            tail = tail.drop(job.segment.end)
        self.state = State(tuple(sorted(kept, key=lambda segment: segment.first)), tail, end)
        self._share_out()
        trim()

    def _share_out(self) -> None:
        index = sum(segment.index.bytes for segment in self.state.segments)
        self.cache.limit = self.budget.cache(index)

    # Forgetting, reading ---------------------------------------------------------------------

    def forget(self, first: int) -> None:
        """Let go of all rows before one, by whole segments and blocks."""
        self.files.require_own()
        self.forgotten = first
        segments, tail, end = self.state
        left = tuple(segment for segment in segments if segment.end > first)
        whole = first // self.files.block * self.files.block
        self.state = State(left, tail.drop(whole), end)
        self.log.forget(first)

    def blocks(self, state: State) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield all live rows, and some forgotten: the first one, keys and values ``[H, n, D]``."""
        for first, part in self.log.blocks(self.forgotten, state.logged):
            yield first, part.read(part.keys, first), part.read(part.values, first)
        for block in state.tail.blocks:
            yield block.first, block.keys, block.values

    def keys(self, state: State, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Yield the keys of `blocks` only, from the block of row `start` on."""
        for first, part in self.log.blocks(max(start, self.forgotten), state.logged):
            yield first, part.read(part.keys, first)
        yield from state.tail.keys()

    def take(self, which: str, ids: Tensor) -> Tensor:
        """Look up "keys" or "values" of rows ``[H, Q, K]``: ``[H, Q, K, D]``."""
        state, limit = self.state, self.budget.workspace
        heads = torch.arange(len(ids))[:, None, None].expand_as(ids).flatten()
        rows = ids.flatten()
        found = torch.empty(len(rows), self.budget.head_dim, dtype=self.like[2])
        old = rows < state.logged
        if old.any():
            found[old] = self.log.take(self.cache, which, heads[old], rows[old], limit)
        for block in state.tail.blocks:
            here = (rows >= block.first) & (rows < block.end)
            found[here] = getattr(block, which)[heads[here], rows[here] - block.first]
        return found.view(*ids.shape, -1)

    # On disk ---------------------------------------------------------------------------------

    def flush(self, *, first_id: int, hubs: tuple[tuple[int, ...], ...]) -> None:
        """Make all rows durable."""
        segments, tail, end = self.state
        for block in tail.blocks:
            if block.end % self.files.block == 0:
                self.log.write(block, self.files)
            else:
                self.files.save_rest(block.first, block.keys, block.values)
        if end % self.files.block == 0:
            self.files.no_rest()
        self.files.commit(
            self.log,
            segments,
            first_id=first_id,
            rows=end,
            forgotten=self.forgotten,
            hubs=hubs,
        )

    def open(self, directory: Path | str) -> Manifest:
        """Take up what lies in a directory, or begin there."""
        place = open_place(directory)
        try:
            manifest = self.files.open(place)
            self._load(place, manifest)
        except BaseException:
            place.close(unused=True)
            raise
        return manifest

    def _load(self, place: Place, manifest: Manifest) -> None:
        self.log = load_log(self.files, place, manifest)
        self.forgotten = manifest.forgotten
        segments = load_segments(self.files, place, manifest)
        pieces = load_pieces(self.files, place, manifest)
        indexed = segments[-1].end if segments else 0
        loaded = State(segments, Tail(), max(indexed, manifest.live))
        self._share_out()
        try:
            self._take_in_again(loaded, pieces)
        except StorageError as error:
            reason = error.__cause__
            if (
                place.read_only
                or not isinstance(reason, OSError)
                or (reason.errno or 0) in TRANSIENT
            ):
                raise
            place.refuse_writing(reason)  # what can be read can be searched all the same
            self._take_in_again(loaded, pieces)

    def _take_in_again(self, loaded: State, pieces: list[Piece]) -> None:
        """Take in rows that no segment holds: they are clustered, if there are many."""
        self._jobs.clear()
        self.state = loaded
        assert self.files.place is not None
        take_in = self._append if self.files.place.read_only else self._take_in
        for first, part in self.log.blocks(loaded.end, self.log.end):
            take_in(part.read(part.keys, first), part.read(part.values, first))
        for piece in pieces:
            take_in(piece.keys.read_all(), piece.values.read_all())

    def close(self) -> None:
        """Let go of everything."""
        self._jobs.clear()
        self.state, self.log, self.cache = State(), Log(self.log.block), Cache()
        self.files.close()
