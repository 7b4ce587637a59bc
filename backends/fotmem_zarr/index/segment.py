"""Immutable runs of rows whose keys lie on disk in clusters."""

import torch
from torch import Tensor

from fotmem.errors import StorageError
from fotmem_zarr.budget import CLUSTER
from fotmem_zarr.disk.chunked_array import Rows
from fotmem_zarr.disk.manifest import SegmentEntry
from fotmem_zarr.disk.owned import Owned, Spot
from fotmem_zarr.index.clusters import Summary

IDS = 16
"""Clusters whose row numbers share a chunk."""
FAR = 1.5
"""The best eighth of a cluster lies about so many standard deviations above its mean."""


class Index:
    """What a segment has in memory."""

    def __init__(self, summary: Summary, sizes: Tensor, buckets: Tensor, centres: Tensor) -> None:
        self.summary = summary  # [H, C, D], [H, C, D], [H, C]
        self.sizes = sizes
        """``[H, C]``, int32: keys of each cluster; 0 where a head has fewer clusters."""
        self.buckets = buckets
        """``[H, P + 1]``, int32: the clusters where the buckets begin."""
        self.centres = centres
        """``[H, P, D]``, float32: of the buckets, shared by all segments."""

    def tensors(self) -> dict[str, Tensor]:
        """Name what is written."""
        means, variances, spread = self.summary
        return {
            "means": means,
            "variances": variances,
            "spread": spread,
            "sizes": self.sizes,
            "buckets": self.buckets,
            "centres": self.centres,
        }

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())


class Segment(Owned):
    """Rows `first` to `end`; cluster ``c`` of head ``h`` begins at ``keys[h, c * CLUSTER]``."""

    index: Index
    keys: Rows
    ids: Rows

    def __init__(
        self,
        spot: Spot,
        *,
        first: int,
        rows: int,
        level: int,
        shard: int,
        like: tuple[int, int, torch.dtype],
        clusters: int = 0,
    ) -> None:
        super().__init__(spot)
        self.first = first
        self.rows = rows
        self.level = level
        self.shard = shard
        self.heads, self.head_dim, self.dtype = like
        self.set_clusters(clusters)

    def set_clusters(self, clusters: int) -> None:
        """Say how many clusters the head with most of them has."""
        self.clusters = clusters
        per_chunk = min(IDS, self.shard)
        rows, wide = clusters * CLUSTER, (self.head_dim,)
        self.keys = self._rows("keys", rows, wide, self.dtype, CLUSTER, self.shard)
        per_shard = self.shard // per_chunk
        self.ids = self._rows("ids", rows, (), torch.int32, per_chunk * CLUSTER, per_shard)

    @property
    def end(self) -> int:
        """The row behind its last one."""
        return self.first + self.rows

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

    def save_index(self, index: Index) -> None:
        """Write the index; after that the segment is complete."""
        self.index = index
        self.set_buckets(index.centres.shape[1])
        for rows in self.arrays():
            rows.describe()
        for name, tensor in index.tensors().items():
            self._small[name].write(0, 0, tensor)

    def load_index(self) -> None:
        """Read the index; raise `StorageError` if it is none of so many rows."""
        read = {name: rows.read_all() for name, rows in self._small.items()}
        summary = Summary(read["means"], read["variances"], read["spread"])
        self.index = Index(summary, read["sizes"], read["buckets"], read["centres"])
        sizes, buckets = self.index.sizes, self.index.buckets
        if not (
            0 <= sizes.min() <= sizes.max() <= CLUSTER
            and (sizes.sum(1) == self.rows).all()
            and (buckets[:, 0] == 0).all()
            and (buckets.diff(dim=1) >= 0).all()
            and (buckets[:, -1] == (sizes > 0).sum(1)).all()
            and all(part.isfinite().all() for part in (*summary, self.index.centres))
        ):
            raise StorageError(
                f"the index of {self.path} of {self.place.name} is none of its rows; "
                f"{self.keys.cure()}"
            )

    def set_buckets(self, buckets: int) -> None:
        """Say how many buckets there are; the arrays of the index follow from it."""
        wide, whole = (self.head_dim,), torch.int32
        self._small = {
            name: self._rows(name, rows, rest, dtype, rows, 1, self.heads)
            for name, rows, rest, dtype in (
                ("means", self.clusters, wide, torch.float32),
                ("variances", self.clusters, wide, torch.float32),
                ("spread", self.clusters, (), torch.float32),
                ("sizes", self.clusters, (), whole),
                ("buckets", buckets + 1, (), whole),
                ("centres", buckets, wide, torch.float32),
            )
        }

    def arrays(self) -> tuple[Rows, ...]:
        return self.keys, self.ids, *self._small.values()

    def _rows(
        self,
        name: str,
        rows: int,
        rest: tuple[int, ...],
        dtype: torch.dtype,
        chunk: int,
        shard: int,
        heads: int = 1,
    ) -> Rows:
        return Rows(
            place=self.place,
            path=f"{self.path}/{name}",
            generation=self.generation,
            first=self.first,
            heads=self.heads,
            rows=rows,
            rest=rest,
            dtype=dtype,
            chunk_rows=chunk,
            chunks_per_shard=shard,
            heads_per_shard=heads,
        )

    def estimate(self, queries: Tensor) -> Tensor:
        """Estimate the best score in each cluster, for queries ``[H, Q, D]``: ``[H, Q, C]``.

        Scores of a cluster are taken to be spread as its keys are along each dimension.
        """
        means, variances, spread = self.index.summary
        size = queries.abs().amax(-1, keepdim=True)
        relative = queries / size.clamp(min=torch.finfo(torch.float32).tiny)
        deviation = (relative.square() @ variances.transpose(1, 2)).sqrt_()
        deviation *= FAR * size * spread[:, None]
        best = deviation.add_(queries @ means.transpose(1, 2))
        return best.masked_fill_((self.index.sizes == 0)[:, None], -torch.inf)
