"""What segments are made from, a piece at a time: rows in memory, or smaller segments."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem_zarr.budget import CLUSTER, MAX_BUCKETS, Budget
from fotmem_zarr.index.clusters import assign, learn_centres
from fotmem_zarr.index.segment import Segment
from fotmem_zarr.unwritten import Block

Piece = tuple[Tensor, Tensor]
"""Keys ``[n, D]`` of one head in the store's dtype, and their row numbers ``[n]``, int64."""
ROWS_PER_BUCKET = 64
"""Of the first segment. The later ones have the same buckets, with more rows."""


class Source(NamedTuple):
    """Rows to be clustered."""

    first: int
    end: int
    pieces: Callable[[int, int], Iterator[Piece]]
    """The keys of one head in one bucket, in pieces of bounded size."""
    centres: Callable[[int], Tensor]
    """The buckets ``[P, D]`` of one head."""
    buckets: int


def source_of_blocks(blocks: Sequence[Block], budget: Budget, like: Segment | None) -> Source:
    """Take rows in memory; the buckets are those of `like`, or learnt."""
    first, end = blocks[0].first, blocks[-1].end
    count = max(1, min(MAX_BUCKETS, (end - first) // ROWS_PER_BUCKET))
    learnt: dict[int, Tensor] = {} if like is None else dict(enumerate(like.index.centres))
    held: dict[int, tuple[Tensor, Tensor]] = {}  # of the head at work: its keys, their buckets

    def centres(head: int) -> Tensor:
        return learnt[head]

    def prepare(head: int) -> tuple[Tensor, Tensor]:
        keys = torch.cat([block.keys[head] for block in blocks])
        if head not in learnt:
            learnt[head] = learn_centres(keys, count)
        parts = [assign(part.float(), learnt[head]) for part in keys.split(budget.piece)]
        return keys, torch.cat(parts)

    def pieces(head: int, bucket: int) -> Iterator[Piece]:
        if head not in held:
            held.clear()
            held[head] = prepare(head)
        keys, nearest = held[head]
        rows = (nearest == bucket).nonzero()[:, 0]
        for part in rows.split(budget.piece) if len(rows) else ():
            yield keys[part], part + first

    return Source(
        first, end, pieces, centres, count if like is None else like.index.centres.shape[1]
    )


def source_of_segments(segments: Sequence[Segment], budget: Budget, first: int) -> Source:
    """Take the rows of smaller segments that lie one after the other, from row `first` on."""
    centres = segments[0].index.centres

    def pieces(head: int, bucket: int) -> Iterator[Piece]:
        held: list[Piece] = []
        size = 0
        for segment in segments:
            start, stop = segment.index.buckets[head, bucket : bucket + 2].tolist()
            step = max(1, budget.piece // (4 * CLUSTER))
            for low in range(start, stop, step):
                keys, rows = read_clusters(segment, head, low, min(low + step, stop))
                live = rows >= first
                held.append((keys[live], rows[live]))
                size += len(held[-1][1])
                if size >= budget.piece:
                    size = 0
                    yield _joined(held)
        if size:
            yield _joined(held)

    start = max(first, segments[0].first)
    return Source(start, segments[-1].end, pieces, centres.__getitem__, centres.shape[1])


def _joined(held: list[Piece]) -> Piece:
    """Join pieces, and let go of them before others work."""
    keys, rows = (torch.cat(part) for part in zip(*held, strict=True))
    held.clear()
    return keys, rows


def read_clusters(segment: Segment, head: int, start: int, stop: int) -> Piece:
    """Read neighbouring clusters of one head, past the cache."""
    before = head * segment.keys.chunks_per_head
    keys = segment.keys.load(range(before + start, before + stop)).flatten(0, 1)
    per_chunk = segment.ids.chunk_rows // CLUSTER
    low = start // per_chunk
    before = head * segment.ids.chunks_per_head
    ids = segment.ids.load(range(before + low, before - (-stop // per_chunk))).flatten()
    ids = ids[(start - low * per_chunk) * CLUSTER :][: len(keys)]
    sizes = segment.index.sizes[head, start:stop, None]
    there = (torch.arange(CLUSTER) < sizes).flatten()
    return keys[there], ids[there].long() + segment.first
