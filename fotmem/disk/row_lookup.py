"""Looks up single rows of arrays through the cache."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fotmem.disk.chunk_cache import ChunkCache
from fotmem.disk.chunk_reader import Chunk
from fotmem.disk.chunked_array import ChunkedArray


def look_up_rows(
    cache: ChunkCache,
    arrays: Sequence[ChunkedArray],
    which: Tensor,
    heads: Tensor,
    rows: Tensor,
    limit: int,
) -> Tensor:
    """Look up rows, each given by array ``[n]``, head ``[n]`` and row ``[n]``: ``[n, *rest]``.

    ``n >= 1``; all arrays that are asked have chunks of one length. At most `limit` elements are
    read at a time.
    """
    like = arrays[int(which[0])]
    chunks, inverse, wanted = _chunks_of(arrays, which, heads, rows // like.chunk_rows)
    order = inverse.argsort()
    bounds = torch.searchsorted(inverse[order], torch.arange(len(chunks) + 1))
    found = torch.empty(len(rows), *like.rest, dtype=like.dtype)
    step = max(1, limit // (like.chunk_rows * math.prod(like.rest)))
    for start in range(0, len(chunks), step):
        stop = min(start + step, len(chunks))
        block = cache.read(wanted[start:stop])
        places = order[bounds[start] : bounds[stop]]
        found[places] = block[inverse[places] - start, rows[places] % like.chunk_rows]
    return found


def _chunks_of(
    arrays: Sequence[ChunkedArray], which: Tensor, heads: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, list[Chunk]]:
    """Find the distinct chunks of rows: their numbers, each row's place among them, and they."""
    per_head = torch.tensor([array.chunks_per_head for array in arrays])
    counts = arrays[int(which[0])].heads * per_head
    ends = counts.cumsum(0)  # chunks are numbered across all arrays
    begins = ends - counts
    chunk_of_each = begins[which] + heads * per_head[which] + numbers
    chunks, inverse = chunk_of_each.unique(return_inverse=True)
    owners = torch.bucketize(chunks, ends, right=True)
    located = zip(owners.tolist(), (chunks - begins[owners]).tolist(), strict=True)
    return chunks, inverse, [(arrays[index], number) for index, number in located]
