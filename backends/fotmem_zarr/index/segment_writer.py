"""Clusters rows and writes them as a segment, in steps."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from fotmem_zarr.budget import CLUSTER, Budget
from fotmem_zarr.disk.log import Log, PartMaker
from fotmem_zarr.index.clusters import Summary, clusters, summarise
from fotmem_zarr.index.segment import Index, Segment
from fotmem_zarr.index.segment_sources import Source, source_of_blocks
from fotmem_zarr.unwritten import Block

Steps = Iterator[int]
"""Work, done when the next item is asked for: how many keys of one head each step handled."""


class Writer:
    """Takes the keys of one head and writes their clusters, shard by shard."""

    def __init__(self, segment: Segment, head: int) -> None:
        self.segment = segment
        self.head = head
        self.clusters = 0
        self.summaries: list[Summary] = []
        self.sizes: list[Tensor] = []
        self._shard = 0
        # One shard, filled in place: tensors that wait among temporaries would scatter the memory.
        self._keys = torch.empty(segment.shard, CLUSTER, segment.head_dim, dtype=segment.dtype)
        self._ids = torch.empty(segment.shard, CLUSTER, dtype=torch.int32)
        self._filled = 0

    def add(self, keys: Tensor, rows: Tensor) -> None:
        """Cluster keys ``[n, D]`` of rows ``[n]``."""
        wide = keys.float()
        order = clusters(wide)
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
        """Write what is left."""
        if self._filled:
            keys, ids = self._keys[: self._filled], self._ids[: self._filled].flatten()
            self.segment.keys.write(self.head, self._shard, keys.flatten(0, 1)[None])
            ids = pad(ids, (0, -len(ids) % self.segment.ids.chunk_rows))
            self.segment.ids.write(self.head, self._shard, ids[None])
            self._shard += 1
            self._filled = 0


def build(source: Source, segment: Segment) -> Steps:
    """Cluster and write all rows of `source`; afterwards `segment` is complete."""
    summaries = []
    sizes = []
    starts = []
    for head in range(segment.heads):
        writer = Writer(segment, head)
        starts.append([0])
        for bucket in range(source.buckets):
            for keys, rows in source.pieces(head, bucket):
                writer.add(keys, rows)
                done = len(keys)
                del keys, rows  # nothing large stays between steps
                yield done
            starts[-1].append(writer.clusters)
        writer.finish()
        summaries.append(Summary(*map(torch.cat, zip(*writer.summaries, strict=True))))
        sizes.append(torch.cat(writer.sizes))
    summary = Summary(
        *(pad_sequence(list(part), batch_first=True) for part in zip(*summaries, strict=True))
    )
    centres = torch.stack([source.centres(head) for head in range(segment.heads)])
    size = pad_sequence(sizes, batch_first=True)
    segment.set_clusters(size.shape[1])
    segment.save_index(Index(summary, size, torch.tensor(starts, dtype=torch.int32), centres))


def index(
    blocks: tuple[Block, ...],
    segment: Segment,
    like: Segment | None,
    log: Log,
    files: PartMaker,
    budget: Budget,
) -> Steps:
    """Write blocks in memory to the log, and cluster them."""
    for block in blocks:
        log.write(block, files)
        yield budget.num_heads * log.block // 4  # takes about as long as clustering so many keys
    yield from build(source_of_blocks(blocks, budget, like), segment)
