"""Keys and values on disk, found through clusters, within a RAM budget."""

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from fotmem.attention import PartialAttention, topk_attention
from fotmem.disk import DamagedChunkError, LayerShape, SavedRows
from fotmem.errors import StorageError
from fotmem.stores import Bias, Hits, MemoryStore, ReadWriteLock, SavedIndex
from fotmem_zarr.budget import Budget
from fotmem_zarr.contents import LayerContents
from fotmem_zarr.index.hub_keys import HubRows
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.kept_clusters import FILES, load_clusters, saved_clusters
from fotmem_zarr.kept_files import KeptFiles
from fotmem_zarr.options import ZarrOptions
from fotmem_zarr.search import scan_all, scan_biased, search_clusters
from fotmem_zarr.snapshot import Snapshot

T = TypeVar("T")
LOG = logging.getLogger("fotmem")
CLUSTERS = "fotmem_zarr clusters 2"
"""The version of the clusters that a memory's directory keeps."""
QUERIES = 2048
"""Queries of a head for which `attend` holds hits at a time."""


class ZarrStore(MemoryStore):
    """A log of all rows in zarr arrays, and segments of clustered keys that are searched.

    Recent rows lie in memory and are searched exactly, until they are enough for a segment.
    Segments are merged into larger ones. Both happen in steps, as rows are added.

    Parameters
    ----------
    directory : path, URL or None
        A folder (made if missing), a zip file (read-only) or a URL; None: a temporary folder,
        made when needed, which is removed with the store.
    options : ZarrOptions
        How much memory the store takes, and how far a query looks.

    Raises
    ------
    StorageError
        If the directory is in use, damaged, foreign or newer, or cannot be read or written.
    OptionError
        If it holds another kind of layer, or `ram` is too little for this one.
    """

    search_options = frozenset({"nprobe"})
    self_checked = (FILES,)

    def __init__(
        self,
        *,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        directory: Path | str | None,
        options: ZarrOptions,
    ) -> None:
        super().__init__(num_heads=num_heads, head_dim=head_dim, dtype=dtype, device=device)
        self.options = options
        budget = Budget.of(int(options.ram), num_heads, head_dim, dtype)
        self._contents = LayerContents(LayerShape(num_heads, head_dim, dtype), budget)
        self._hubs = HubRows()
        self._lock, self._mending = ReadWriteLock(), threading.Lock()  # see `_mended`
        self._offered: SavedIndex | None = None  # while the store is filled
        self._told: Callable[[int], None] | None = None
        self._is_loaded = False  # whether it took over clusters that were offered
        self._is_copy = False  # of a memory whose log cannot be taken over, nor clusters of it
        if directory is not None:
            manifest = self._contents.open(directory)
            self.resume_at(manifest.first_id, manifest.rows, manifest.forgotten)
            if not options.exact:
                self._hubs = HubRows.restored(
                    manifest.hubs,
                    self._contents.keys_of,
                    first=manifest.forgotten,
                    end=manifest.rows,
                )

    @property
    def chunks(self) -> int:
        """Chunks of clustered keys on disk: one for each cluster of each head."""
        return sum(int((segment.index.sizes > 0).sum()) for segment in self._now().segments)

    @property
    def chunks_probed(self) -> int:
        """Chunks of clustered keys that queries asked for so far, counted for each query."""
        return self._contents.cache.chunks_probed

    @property
    def chunks_read(self) -> int:
        """Chunks of any kind that were read so far because the cache did not hold them."""
        return self._contents.cache.chunks_read

    @property
    def disk_bytes(self) -> int:
        storage = self._contents.files.storage
        return 0 if self.has_directory or storage is None else storage.bytes_used()

    @property
    def ram_bytes(self) -> int:
        return self._contents.ram_bytes

    @property
    def cache_counts(self) -> tuple[int, int]:
        cache = self._contents.cache
        return cache.chunks_asked, cache.chunks_asked - cache.chunks_read

    def share_read(self, queries: Tensor, top_k: int) -> float:
        now = self._now()
        if self.options.exact or not now.segments:
            return 1.0
        before = self.chunks_probed
        self.search(queries, top_k)
        probed = (self.chunks_probed - before) / (queries.shape[1] * self.chunks)
        scanned = sum(block.keys.shape[1] for block in now.recent.blocks) / len(self)
        return min(1.0, scanned + probed * (1 - scanned))

    def _now(self) -> Snapshot:
        if self._contents.files.closed:
            raise StorageError(
                f"the store in {self._contents.files.closed} is closed; open it again"
            )
        return self._contents.now

    def _mended(self, search: Callable[[LayerContents], T]) -> T:
        """Search the contents; where kept clusters are damaged, build them anew, and search again.

        Of several threads one builds. Those that need what is damaged wait for it, and so do
        changes; other searches go on with what they have.
        """
        while True:
            self._now()
            contents = self._contents
            try:
                return search(contents)
            except DamagedChunkError as error:
                if (damaged := _kept_files(error)) is None:
                    raise
                mend = partial(self._mend, contents, damaged, str(error))
                with self._mending:
                    self._lock.writing(mend)

    def _mend(self, contents: LayerContents, damaged: KeptFiles, problem: str) -> None:
        """Build the clusters anew, unless it was done meanwhile."""
        if self._contents is contents:
            damaged.refuse(problem)
            self._contents = contents.rebuilt()

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        self._now()
        contents, hubs, before = self._contents, self._hubs, self._contents.before()
        try:
            self._lock.reading(lambda: self._add(keys, values))
        except BaseException:
            self._contents, self._hubs = contents, hubs
            contents.restore(before)
            raise

    def _add(self, keys: Tensor, values: Tensor) -> None:
        contents, before = self._contents, self._contents.before()
        try:
            contents.add(keys, values)
        except DamagedChunkError as error:
            if (damaged := _kept_files(error)) is None:
                raise
            contents.restore(before)
            self._mend(contents, damaged, str(error))
            self._contents.add(keys, values)
        if not self.options.exact:
            contents = self._contents
            first, end = contents.forgotten, contents.now.end
            self._hubs = self._hubs.grown(contents.keys_of, first=first, end=end)

    # In a memory's directory -----------------------------------------------------------------

    @property
    def made_by(self) -> dict[str, Any]:
        if self.options.exact or self.has_directory:
            return {}
        heads, head_dim, dtype = self._contents.layer
        sizes = {"num_heads": heads, "head_dim": head_dim, "dtype": str(dtype)}
        return {"store": "zarr", "library": CLUSTERS, **sizes}

    def save_index(self) -> SavedIndex | None:
        segments = self._now().segments
        if not (self.made_by and segments) or self._contents.forgotten or self._is_copy:
            return None
        arrays = saved_clusters(segments, self._hubs, self.dtype)
        return SavedIndex(self.made_by, segments[-1].end, arrays)

    def fill(
        self,
        blocks: Iterable[tuple[Tensor, Tensor]],
        index: SavedIndex | None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> bool:
        fits = index is not None and bool(self.made_by) and index.made_by == self.made_by
        self._offered, self._told = index if fits else None, progress
        self._is_loaded = False
        try:
            super().fill(blocks, progress=progress)
            self._is_copy = isinstance(blocks, SavedRows) and not self._contents.is_adopted
            return self._is_loaded
        finally:
            self._offered = self._told = None

    def adopt_rows(self, saved: SavedRows) -> int:
        contents, end = self._contents, saved.log.end
        too_long = saved.log.block > contents.budget.block
        if self.has_directory or saved.is_quantized or too_long or saved.shape != contents.layer:
            return 0
        try:
            self._adopt_log(saved, *self._kept_clusters(saved))
        except DamagedChunkError as error:
            if (damaged := _kept_files(error)) is None:
                raise
            damaged.refuse(str(error))
            self._is_loaded = False
            self._adopt_log(saved, (), HubRows())
        return end

    def _adopt_log(self, saved: SavedRows, segments: tuple[Segment, ...], hubs: HubRows) -> None:
        contents, end = self._contents, saved.log.end
        before = contents.before()
        try:
            contents.adopt(saved, segments, self._told)
            if not self.options.exact:
                self._hubs = hubs.grown(contents.keys_of, first=0, end=end)
        except BaseException:
            contents.restore(before)
            raise

    def _kept_clusters(self, saved: SavedRows) -> tuple[tuple[Segment, ...], HubRows]:
        """Load the clusters that were offered; nothing if there are none that fit."""
        if self._offered is None:
            return (), HubRows()
        log = saved.log
        try:
            found = load_clusters(
                self._offered, self._contents.layer, block=log.block, rows=log.end
            )
        except Exception as error:
            LOG.warning("the saved clusters of the zarr store are built anew: %r", error)
            return (), HubRows()
        self._is_loaded = True
        return found

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        wide, nprobe, now = queries.float(), self.options.nprobe, self._now()
        if self.options.exact:
            return scan_all(self._contents, now, wide, top_k)
        return self._mended(
            lambda contents: search_clusters(contents, self._hubs, wide, top_k, nprobe=nprobe)
        )

    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        now = self._now()
        near = None if self.options.exact else super().search_rows_biased(queries, top_k, bias)
        return scan_biased(self._contents, now, queries.float(), top_k, bias, near)

    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is None:
            return super().attend_rows(queries, top_k, scale)
        wanted = min(top_k, len(self))
        rows = max(1, self._contents.budget.workspace // (self.num_heads * wanted * self.head_dim))
        parts = []
        # Queries of a block read a cluster once, though several want it; values come in turn.
        for block in queries.split(QUERIES, dim=1):
            hits = self.search_rows(block, wanted)
            for ids, scores in zip(
                hits.ids.split(rows, 1), hits.scores.split(rows, 1), strict=True
            ):
                values = self.value_rows(ids.clamp(min=self._contents.forgotten))
                parts.append(topk_attention(scores, values, scale=scale, dtype=queries.dtype))
        out, lse = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return PartialAttention(out, lse)

    def live_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first, keys, values in self._contents.blocks(self._now()):
            skip = max(0, self._contents.forgotten - first)
            yield keys[:, skip:], values[:, skip:]

    def key_rows(self, ids: Tensor) -> Tensor:
        self._now()
        return self._contents.look_up("keys", ids)

    def value_rows(self, ids: Tensor) -> Tensor:
        self._now()
        return self._contents.look_up("values", ids)

    def tune_options(self, options: dict[str, Any]) -> None:
        self.options = self.options.changed(options)

    def forget_rows(self, count: int) -> None:
        self._now()
        if count:
            self._lock.reading(lambda: self._contents.forget(self._contents.forgotten + count))

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        contents = self._contents
        if contents.now.end != added:
            raise StorageError(f"it holds {contents.now.end} rows, but {added} count")
        if contents.forgotten > forgotten:
            contents.forget(contents.forgotten)  # to the end
        return contents.forgotten

    def copy_rows(self) -> Self:
        self._now()
        twin = copy.copy(self)
        twin._contents = self._contents.copy()
        twin._lock, twin._mending = ReadWriteLock(), threading.Lock()
        return twin

    def flush(self) -> None:
        super().flush()
        self._now()
        if self._contents.files.lasting:
            first_id = self.first_id - self._contents.forgotten
            self._contents.flush(first_id=first_id, hubs=self._hubs.rows())

    def close(self) -> None:
        if not self._contents.files.closed:
            super().close()
            self._contents.close()


def _kept_files(error: DamagedChunkError) -> KeptFiles | None:
    """Return the kept clusters that are damaged; None: it is something else."""
    storage = error.array.storage
    return storage if isinstance(storage, KeptFiles) else None
