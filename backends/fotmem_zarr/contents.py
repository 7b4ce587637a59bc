"""The rows of a store, in memory and on disk."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fotmem.disk import (
    TRANSIENT,
    ChunkCache,
    DamagedChunkError,
    LayerShape,
    Log,
    LogPart,
    MappedRows,
    SavedRows,
    Storage,
    TailPiece,
    load_tail,
    open_storage,
)
from fotmem.errors import StorageError
from fotmem_zarr.budget import Budget
from fotmem_zarr.compactor import Compactor
from fotmem_zarr.files import Files
from fotmem_zarr.index.recent_rows import RecentRows
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.loading import load_rows, load_segments
from fotmem_zarr.malloc_trim import trim_malloc
from fotmem_zarr.manifest import Manifest
from fotmem_zarr.snapshot import Snapshot

Before = tuple[Snapshot, Log, dict[str, MappedRows]]
MOST_KNOWN = 0.875
"""Kept clusters that know a smaller share of the rows are completed: they will be kept again."""


class LayerContents:
    """Rows ``0`` to ``now.end`` of one layer; the first `forgotten` of them are forgotten."""

    def __init__(self, layer: LayerShape, budget: Budget) -> None:
        self.layer = layer
        self.budget = budget
        self.cache = ChunkCache()
        self.files = Files(layer, budget)
        self.log = Log(self.files.block)
        self.now = Snapshot()
        self.forgotten = 0
        self.is_adopted = False
        """Whether the first rows lie in another log."""
        self._mapped: dict[str, MappedRows] = {}  # the first rows, if their files can be mapped
        self._compactor = Compactor(self.files, budget)
        self._limit_cache()

    def copy(self) -> "LayerContents":
        """Share all rows; what is added to either goes to files of its own."""
        twin = copy.copy(self)
        twin.files, twin.log = self.files.twin(self.budget), self.log.copy()
        twin._compactor = Compactor(twin.files, self.budget)
        twin.now = self.now._replace(recent=self.now.recent._replace(shared=True))
        return twin

    # Adding ----------------------------------------------------------------------------------

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Add rows ``[H, n, D]``. If it raises, `restore` what `before` returned."""
        self.files.require_writable()
        self._take_in(keys, values)

    def before(self) -> Before:
        """Return what `restore` needs."""
        return self.now, self.log.copy(), self._mapped

    def restore(self, before: Before) -> None:
        """Return to the state before `add` or `adopt`."""
        self._compactor.clear()
        self.now, self.log, self._mapped = before

    def _take_in(self, keys: Tensor, values: Tensor) -> None:
        while keys.shape[1]:
            fits = self.files.block - self.now.end % self.files.block
            # First the work, which may fail, then the rows.
            self._compact(min(fits, keys.shape[1]))
            self._append(keys[:, :fits], values[:, :fits])
            keys, values = keys[:, fits:], values[:, fits:]

    def _compact(self, rows: int) -> None:
        before = self.now.segments
        self.now = self._compactor.advance(self.now, self.log, forgotten=self.forgotten, rows=rows)
        if self.now.segments is not before:
            self._limit_cache()
            trim_malloc()

    def _append(self, keys: Tensor, values: Tensor) -> None:
        segments, recent, end = self.now
        recent = recent.append(keys, values, first=end, length=self.files.block)
        self.now = Snapshot(segments, recent, end + keys.shape[1])

    def _limit_cache(self) -> None:
        index = sum(segment.index.bytes for segment in self.now.segments)
        self.cache.limit = self.budget.cache(index)

    # Forgetting and reading ------------------------------------------------------------------

    def forget(self, first: int) -> None:
        """Drop all rows before one, by whole segments and blocks."""
        self.files.require_own()
        self.forgotten = first
        segments, recent, end = self.now
        left = tuple(segment for segment in segments if segment.end > first)
        whole = first // self.files.block * self.files.block
        self.now = Snapshot(left, recent.drop(whole), end)
        self.log.forget(first)

    def blocks(self, now: Snapshot) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield all live rows, and some forgotten: the first row, keys and values ``[H, n, D]``."""
        for first, (keys, values) in self._logged(("keys", "values"), self.forgotten, now.logged):
            yield first, keys, values
        for block in now.recent.blocks:
            yield block.first, block.keys, block.values

    def keys(self, now: Snapshot, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the keys of `blocks`, from the block of row `start` on."""
        for first, (keys,) in self._logged(("keys",), max(start, self.forgotten), now.logged):
            yield first, keys
        yield from now.recent.keys()

    def _logged(
        self, columns: Sequence[str], start: int, stop: int
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the first row of each such block of the log, and its rows ``[H, block, D]``."""
        for first, part in self.log.blocks(start, stop):
            yield first, [self._block(part, column, first) for column in columns]

    def _block(self, part: LogPart, column: str, first: int) -> Tensor:
        """Read a block; if a compaction has removed its file, where that is mapped."""
        try:
            return part.read(column, first)
        except DamagedChunkError:
            mapped, (array, number) = self._mapped.get(column), part.chunks_of(column, first)[0]
            is_gone = array.storage.missing([array.locate(number)[0]]) is not None
            if not is_gone or mapped is None or first >= len(mapped):
                raise
        (_, rows), *_ = mapped.blocks(first, first + self.log.block, self.log.block)
        return rows

    def look_up(self, which: str, rows: Tensor) -> Tensor:
        """Look up "keys" or "values" of rows ``[H, Q, K]``: ``[H, Q, K, D]``."""
        now, limit, shape = self.now, self.budget.workspace, rows.shape
        heads = torch.arange(len(rows))[:, None, None].expand_as(rows).flatten()
        rows = rows.flatten()
        found = torch.empty(len(rows), self.layer.head_dim, dtype=self.layer.dtype)
        mapped = self._mapped.get(which)
        first = 0 if mapped is None else len(mapped)
        if mapped is not None and (there := rows < first).any():
            found[there] = mapped.take(rows[there], heads[there])
        old = (rows >= first) & (rows < now.logged)
        if old.any():
            found[old] = self.log.look_up(self.cache, which, heads[old], rows[old], limit)
        for block in now.recent.blocks:
            here = (rows >= block.first) & (rows < block.end)
            found[here] = getattr(block, which)[heads[here], rows[here] - block.first]
        return found.view(*shape, -1)

    def keys_of(self, rows: Tensor) -> Tensor:
        """Look up the keys of rows ``[H, n]``, or ``[1, n]`` of all heads: ``[H, n, D]``."""
        return self.look_up("keys", rows.expand(self.layer.heads, -1)[:, None])[:, 0]

    @property
    def ram_bytes(self) -> int:
        """Bytes of recent rows, of the cache and of the index."""
        rooms = [room.nbytes for block in self.now.recent.blocks for room in block.room]
        indexes = [segment.index.bytes for segment in self.now.segments]
        return self.cache.bytes_held + sum(rooms) + sum(indexes)

    def rebuilt(self) -> "LayerContents":
        """Share the log, and build clusters of all rows anew."""
        twin = self.copy()
        twin.now = Snapshot(end=self.forgotten // self.files.block * self.files.block)
        twin._limit_cache()
        for _, rows in self._logged(("keys", "values"), self.forgotten, self.now.logged):
            twin._take_in(*rows)
        for block in self.now.recent.blocks:
            twin._take_in(block.keys, block.values)
        twin._finish(0)
        return twin

    # On disk ---------------------------------------------------------------------------------

    def flush(self, *, first_id: int, hubs: tuple[tuple[int, ...], ...]) -> None:
        """Make all rows durable."""
        segments, recent, end = self.now
        for block in recent.blocks:
            if block.end % self.files.block == 0:
                self.files.write_block(self.log, block)
            else:
                self.files.save_rest(block.first, block.keys, block.values)
        if end % self.files.block == 0:
            self.files.drop_rest()
        self.files.save(
            self.log,
            segments,
            first_id=first_id,
            rows=end,
            forgotten=self.forgotten,
            hubs=hubs,
        )

    def open(self, directory: Path | str) -> Manifest:
        """Load what lies in a directory, or begin a store there."""
        storage = open_storage(directory)
        try:
            manifest = self.files.load(storage)
            self._load(storage, manifest)
        except BaseException:
            storage.close(unused=True)
            raise
        return manifest

    def adopt(
        self, saved: SavedRows, segments: tuple[Segment, ...], told: Callable[[int], None] | None
    ) -> None:
        """Take over the log of a memory, which stays where it is, and segments of its rows.

        `told` is called now and then with the number of rows that are in segments or memory. If it
        raises, `restore` what `before` returned.
        """
        log = saved.log
        self.files.block, self.log = log.block, log.copy()
        self.now = Snapshot(segments, end=segments[-1].end if segments else 0)
        self._limit_cache()
        for first, (keys, values) in log.read(("keys", "values"), self.now.end, log.end):
            self._take_in(keys, values)
            if told is not None:
                told(first + keys.shape[1])
        self._finish(segments[-1].end if segments else 0)
        self._map(saved)
        self.is_adopted = True

    def _map(self, saved: SavedRows) -> None:
        """Map the files of a log, so that they can be read also when a compaction removes them."""
        both = {name: MappedRows(saved.log, name) for name in ("keys", "values")}
        self._mapped = both if all(each.is_mapped for each in both.values()) else {}

    def _finish(self, known: int) -> None:
        """Leave few rows outside segments, if those beyond row `known` are so many."""
        if known < MOST_KNOWN * self.now.end:
            self.now = self._compactor.finish(self.now, self.log, forgotten=self.forgotten)
            self._limit_cache()
            trim_malloc()

    def _load(self, storage: Storage, manifest: Manifest) -> None:
        self.log, pieces = load_rows(self.files, storage, manifest)
        self.forgotten = manifest.forgotten
        segments = load_segments(self.files, storage, manifest)
        indexed = segments[-1].end if segments else 0
        loaded = Snapshot(segments, RecentRows(), max(indexed, manifest.live))
        try:
            self._load_recent(storage, loaded, pieces)
        except StorageError as error:
            reason = error.__cause__
            lasting = isinstance(reason, OSError) and (reason.errno or 0) not in TRANSIENT
            if storage.read_only or not lasting:
                raise
            assert isinstance(reason, OSError)
            storage.refuse_writing(reason)  # what can be read can be searched nevertheless
            self._load_recent(storage, loaded, pieces)

    def _load_recent(self, storage: Storage, loaded: Snapshot, pieces: list[TailPiece]) -> None:
        """Load the rows that no segment holds; if they are many, they are clustered."""
        self._compactor.clear()
        self.now = loaded
        self._limit_cache()
        take_in = self._append if storage.read_only else self._take_in
        for first, part in self.log.blocks(loaded.end, self.log.end):
            take_in(part.read("keys", first), part.read("values", first))
        for keys, values in load_tail(pieces):
            take_in(keys, values)

    def close(self) -> None:
        """Release everything."""
        self._compactor.clear()
        self.now, self.log, self.cache = Snapshot(), Log(self.log.block), ChunkCache()
        self._mapped = {}
        self.files.close()
