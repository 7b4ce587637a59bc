"""What segments are made from, part by part: recent rows, or smaller segments."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.disk import load_chunks
from fotmem_zarr.index.clusters import learn_centres, nearest_centre
from fotmem_zarr.index.limits import CLUSTER, MAX_BUCKETS
from fotmem_zarr.index.recent_rows import Block
from fotmem_zarr.index.segment import Segment

ROWS_PER_BUCKET = 64
"""Of the first segment. Later ones have the same buckets, with more rows."""


class NumberedKeys(NamedTuple):
    """Keys of one head, and their row numbers."""

    keys: Tensor
    """``[n, D]`` in the store's dtype."""
    rows: Tensor
    """``[n]``, int64."""


class SegmentSource(NamedTuple):
    """Rows to be clustered."""

    first: int
    end: int
    parts: Callable[[int, int], Iterator[NumberedKeys]]
    """Yields the keys of one head in one bucket, in parts of bounded size."""
    centres: Callable[[int], Tensor]
    """Returns the centres of the buckets of one head, ``[P, D]``."""
    buckets: int


def source_of_blocks(blocks: Sequence[Block], like: Segment | None, length: int) -> SegmentSource:
    """Take recent rows, `length` at a time; the buckets are those of `like`, or learnt."""
    first, end = blocks[0].first, blocks[-1].end
    count = max(1, min(MAX_BUCKETS, (end - first) // ROWS_PER_BUCKET))
    learnt: dict[int, Tensor] = {} if like is None else dict(enumerate(like.index.centres))
    held: dict[int, tuple[Tensor, Tensor]] = {}  # of one head: its keys, and their buckets

    def prepare(head: int) -> tuple[Tensor, Tensor]:
        keys = torch.cat([block.keys[head] for block in blocks])
        if head not in learnt:
            learnt[head] = learn_centres(keys, count)
        nearest = [nearest_centre(part.float(), learnt[head]) for part in keys.split(length)]
        return keys, torch.cat(nearest)

    def parts(head: int, bucket: int) -> Iterator[NumberedKeys]:
        if head not in held:
            held.clear()
            held[head] = prepare(head)
        keys, nearest = held[head]
        rows = (nearest == bucket).nonzero()[:, 0]
        for part in rows.split(length) if len(rows) else ():
            yield NumberedKeys(keys[part], part + first)

    buckets = count if like is None else like.index.centres.shape[1]
    return SegmentSource(first, end, parts, learnt.__getitem__, buckets)


def source_of_segments(segments: Sequence[Segment], first: int, length: int) -> SegmentSource:
    """Take the rows of consecutive segments, from row `first` on, about `length` at a time."""
    centres = segments[0].index.centres

    def parts(head: int, bucket: int) -> Iterator[NumberedKeys]:
        held: list[NumberedKeys] = []
        size = 0
        for found in _clusters_of(segments, head, bucket, max(1, length // (4 * CLUSTER))):
            live = found.rows >= first
            held.append(NumberedKeys(found.keys[live], found.rows[live]))
            size += len(held[-1].rows)
            if size >= length:
                size = 0
                yield _joined(held)
        if size:
            yield _joined(held)

    start = max(first, segments[0].first)
    return SegmentSource(start, segments[-1].end, parts, centres.__getitem__, centres.shape[1])


def _clusters_of(
    segments: Sequence[Segment], head: int, bucket: int, step: int
) -> Iterator[NumberedKeys]:
    """Read a bucket of each segment, `step` clusters at a time."""
    for segment in segments:
        start, stop = segment.index.buckets[head, bucket : bucket + 2].tolist()
        for low in range(start, stop, step):
            yield read_clusters(segment, head, low, min(low + step, stop))


def _joined(held: list[NumberedKeys]) -> NumberedKeys:
    """Join parts, and drop them before anybody works with the whole."""
    whole = NumberedKeys(*(torch.cat(each) for each in zip(*held, strict=True)))
    held.clear()
    return whole


def read_clusters(segment: Segment, head: int, start: int, stop: int) -> NumberedKeys:
    """Read neighbouring clusters of one head, without the cache."""
    before = head * segment.keys.chunks_per_head
    keys = load_chunks(segment.keys, range(before + start, before + stop)).flatten(0, 1)
    per_chunk = segment.ids.chunk_rows // CLUSTER
    low = start // per_chunk
    before = head * segment.ids.chunks_per_head
    chunks = range(before + low, before - (-stop // per_chunk))
    ids = load_chunks(segment.ids, chunks).flatten()
    ids = ids[(start - low * per_chunk) * CLUSTER :][: len(keys)]
    sizes = segment.index.sizes[head, start:stop, None]
    there = (torch.arange(CLUSTER) < sizes).flatten()
    return NumberedKeys(keys[there], segment.rows_of(ids[there]))
