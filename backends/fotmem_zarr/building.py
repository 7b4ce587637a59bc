"""Clusters rows and writes them as a segment, in steps."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from fotmem_zarr.budget import Budget
from fotmem_zarr.clusters import Summary, clusters, summarise
from fotmem_zarr.log import Log, PartMaker
from fotmem_zarr.segment import Index, Segment
from fotmem_zarr.sources import Source, source_of_blocks
from fotmem_zarr.tail import Block

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
        self._held: list[tuple[Tensor, Tensor]] = []  # keys and ids that fill no shard yet
        self._count = 0  # of clusters held

    def add(self, keys: Tensor, rows: Tensor) -> None:
        """Cluster keys ``[n, D]`` of rows ``[n]``."""
        wide = keys.float()
        order = clusters(wide)
        self.summaries.append(summarise(wide, order))
        self.sizes.append((order >= 0).sum(1).int())
        self.clusters += len(order)
        for rows_or_none in order.split(self.segment.shard):
            there, part = rows_or_none >= 0, rows_or_none.clamp(min=0)
            ids = (rows[part] - self.segment.first).masked_fill(~there, 0)
            self._held.append((keys[part].masked_fill(~there[..., None], 0), ids.int()))
            self._count += len(part)
            if self._count >= self.segment.shard:
                self._write(self.segment.shard)

    def finish(self) -> None:
        """Write what is left."""
        if self._count:
            self._write(self._count)

    def _write(self, count: int) -> None:
        keys, ids = (torch.cat(each) for each in zip(*self._held, strict=True))
        self._held = [(keys[count:].clone(), ids[count:].clone())]
        self._count -= count
        self.segment.keys.write(self.head, self._shard, keys[None, :count].flatten(1, 2))
        ids = ids[:count].flatten()
        ids = pad(ids, (0, -len(ids) % self.segment.ids.chunk_rows))
        self.segment.ids.write(self.head, self._shard, ids[None])
        self._shard += 1


def build(source: Source, segment: Segment) -> Steps:
    """Cluster and write all rows of `source`; afterwards `segment` is complete."""
    writers = []
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
        writers.append(writer)
    summaries = [
        Summary(*map(torch.cat, zip(*writer.summaries, strict=True))) for writer in writers
    ]
    summary = Summary(
        *(pad_sequence(list(part), batch_first=True) for part in zip(*summaries, strict=True))
    )
    sizes = pad_sequence([torch.cat(writer.sizes) for writer in writers], batch_first=True)
    centres = torch.stack([source.centres(head) for head in range(segment.heads)])
    segment.set_clusters(sizes.shape[1])
    segment.save_index(Index(summary, sizes, torch.tensor(starts, dtype=torch.int32), centres))


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
