"""Clusters rows and writes them as a segment, in steps."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from fotmem_zarr.index.clusters import ClusterSummary, cluster_keys, summarise
from fotmem_zarr.index.limits import CLUSTER
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.index.segment_index import SegmentIndex
from fotmem_zarr.index.segment_sources import SegmentSource

Steps = Iterator[int]
"""Work, done step by step as items are asked for: the keys of one head that each step handled."""


class ClusterWriter:
    """Clusters the keys of one head, and writes the clusters shard by shard."""

    def __init__(self, segment: Segment, head: int) -> None:
        self.segment = segment
        self.head = head
        self.clusters = 0
        self.summaries: list[ClusterSummary] = []
        self.sizes: list[Tensor] = []
        self._shard = 0
        # One shard, filled in place: tensors that wait among temporaries would fragment the memory.
        _, head_dim, dtype = segment.layer
        self._keys = torch.empty(segment.shard, CLUSTER, head_dim, dtype=dtype)
        self._ids = torch.empty(segment.shard, CLUSTER, dtype=torch.int32)
        self._filled = 0

    def add(self, keys: Tensor, rows: Tensor) -> None:
        """Cluster keys ``[n, D]`` of rows ``[n]``, and write the shards that are full."""
        wide = keys.float()
        order = cluster_keys(wide)
        self.summaries.append(summarise(wide, order))
        self.sizes.append((order >= 0).sum(1).int())
        self.clusters += len(order)
        while len(order):
            some = order[: self.segment.shard - self._filled]
            there, part = some >= 0, some.clamp(min=0)
            here = slice(self._filled, self._filled + len(some))
            self._keys[here] = keys[part].masked_fill_(~there[..., None], 0)
            self._ids[here] = (rows[part] - self.segment.first).masked_fill(~there, 0)
            self._filled += len(some)
            if self._filled == self.segment.shard:
                self.finish()
            order = order[len(some) :]

    def finish(self) -> None:
        """Write the clusters that are left."""
        if self._filled:
            keys, ids = self._keys[: self._filled], self._ids[: self._filled].flatten()
            self.segment.keys.write(self.head, self._shard, keys.flatten(0, 1)[None])
            ids = pad(ids, (0, -len(ids) % self.segment.ids.chunk_rows))
            self.segment.ids.write(self.head, self._shard, ids[None])
            self._shard += 1
            self._filled = 0

    def summary(self) -> ClusterSummary:
        """Return the summary of all clusters."""
        return ClusterSummary(*map(torch.cat, zip(*self.summaries, strict=True)))


def write_segment(source: SegmentSource, segment: Segment) -> Steps:
    """Cluster and write all rows of `source`; the last step completes `segment`."""
    summaries, sizes, starts = [], [], []
    for head in range(segment.layer.heads):
        writer = ClusterWriter(segment, head)
        starts.append([0])
        for bucket in range(source.buckets):
            for part in source.parts(head, bucket):
                writer.add(*part)
                done = len(part.keys)
                del part  # nothing large stays between steps
                yield done
            starts[-1].append(writer.clusters)
        writer.finish()
        summaries.append(writer.summary())
        sizes.append(torch.cat(writer.sizes))
    summary = ClusterSummary(
        *(pad_sequence(list(part), batch_first=True) for part in zip(*summaries, strict=True))
    )
    centres = torch.stack([source.centres(head) for head in range(segment.layer.heads)])
    size, buckets = pad_sequence(sizes, batch_first=True), torch.tensor(starts, dtype=torch.int32)
    segment.set_clusters(size.shape[1])
    segment.save_index(SegmentIndex(summary, size, buckets, centres))
