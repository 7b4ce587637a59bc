"""Immutable runs of rows whose keys lie on disk in clusters."""

import torch
from torch import Tensor

from fotmem.disk import (
    ArrayGroup,
    ChunkedArray,
    Column,
    DamagedChunkError,
    LayerShape,
    Location,
    Storage,
    load_arrays,
)
from fotmem.errors import StorageError
from fotmem_zarr.index.limits import CLUSTER
from fotmem_zarr.index.segment_entry import SegmentEntry
from fotmem_zarr.index.segment_index import SegmentIndex

IDS = 16
"""Clusters whose row numbers share a chunk."""


class Segment(ArrayGroup):
    """Rows `first` to `end`; cluster ``c`` of head ``h`` begins at ``keys[h, c * CLUSTER]``."""

    index: SegmentIndex
    keys: ChunkedArray
    ids: ChunkedArray

    def __init__(
        self,
        location: Location,
        *,
        first: int,
        rows: int,
        level: int,
        shard: int,
        layer: LayerShape,
        clusters: int = 0,
    ) -> None:
        super().__init__(location, first=first)
        self.layer = layer
        self.rows = rows
        self.level = level
        """Merges that its rows went through."""
        self.shard = shard
        """Clusters of a shard."""
        self.set_clusters(clusters)

    @classmethod
    def of_entry(cls, entry: SegmentEntry, storage: Storage, layer: LayerShape) -> "Segment":
        """Make the segment that a manifest describes; `load_index` reads its index."""
        segment = cls(
            Location(storage, f"segments/{entry.name}", entry.generation),
            first=entry.first,
            rows=entry.rows,
            level=entry.level,
            shard=entry.shard,
            layer=layer,
            clusters=entry.clusters,
        )
        segment.set_buckets(entry.buckets)
        return segment

    def set_clusters(self, clusters: int) -> None:
        """Set the number of clusters of the head that has most."""
        self.clusters = clusters
        per_chunk = min(IDS, self.shard)
        rows, (heads, head_dim, dtype) = clusters * CLUSTER, self.layer
        self.keys = self.new_array(
            Column("keys", heads, (head_dim,), dtype),
            rows,
            chunk_rows=CLUSTER,
            chunks_per_shard=self.shard,
        )
        self.ids = self.new_array(
            Column("ids", heads, (), torch.int32),
            rows,
            chunk_rows=per_chunk * CLUSTER,
            chunks_per_shard=self.shard // per_chunk,
        )

    def set_buckets(self, buckets: int) -> None:
        """Set the number of buckets; the arrays of the index follow from it."""
        heads, wide, whole = self.layer.heads, (self.layer.head_dim,), torch.int32
        self._small = {
            name: self.new_array(
                Column(name, heads, rest, dtype), rows, chunk_rows=rows, heads_per_shard=heads
            )
            for name, rows, rest, dtype in (
                ("means", self.clusters, wide, torch.float32),
                ("variances", self.clusters, wide, torch.float32),
                ("spread", self.clusters, (), torch.float32),
                ("sizes", self.clusters, (), whole),
                ("buckets", buckets + 1, (), whole),
                ("centres", buckets, wide, torch.float32),
            )
        }

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.rows

    def arrays(self) -> tuple[ChunkedArray, ...]:
        return self.keys, self.ids, *self._small.values()

    def large(self) -> tuple[ChunkedArray, ChunkedArray]:
        """List the arrays that stay on disk."""
        return self.keys, self.ids

    def rows_of(self, ids: Tensor) -> Tensor:
        """Turn what `ids` holds into row numbers, int64.

        Raises
        ------
        DamagedChunkError
            One is not of this segment, though its checksum is right.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows:
            raise DamagedChunkError(
                f"{self.ids.path} of {self.storage.name} names rows that {self.path} does not "
                f"have; {self.ids.cure}",
                self.ids,
            )
        return ids.long() + self.first

    def entry(self) -> SegmentEntry:
        """Describe it for the manifest."""
        return SegmentEntry(
            name=self.name,
            generation=self.generation,
            first=self.first,
            rows=self.rows,
            level=self.level,
            clusters=self.clusters,
            shard=self.shard,
            buckets=self.index.centres.shape[1],
        )

    def save_index(self, index: SegmentIndex) -> None:
        """Write the index; this completes the segment."""
        self.index = index
        self.set_buckets(index.centres.shape[1])
        for array in self.arrays():
            array.write_description()
        for name, tensor in index.tensors().items():
            self._small[name].write(0, 0, tensor)

    def index_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return the shapes and dtypes of the tensors of its index, by name."""
        return {
            name: ((array.heads, array.rows, *array.rest), array.dtype)
            for name, array in self._small.items()
        }

    def load_index(self) -> None:
        """Read the index; raise `StorageError` if it cannot be an index of these rows."""
        tensors = zip(self._small, load_arrays([*self._small.values()]), strict=True)
        self.take_index(SegmentIndex.of(dict(tensors)))

    def take_index(self, index: SegmentIndex) -> None:
        """Take over an index; raise `StorageError` if it cannot be one of these rows."""
        if not index.fits(self.rows):
            raise StorageError(
                f"the index of {self.path} of {self.storage.name} does not fit its rows; "
                f"{self.keys.cure}"
            )
        self.index = index
