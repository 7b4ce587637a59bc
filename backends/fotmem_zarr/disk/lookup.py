"""Single rows, looked up through the cache."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fotmem_zarr.disk.chunk_cache import Cache
from fotmem_zarr.disk.chunked_array import Rows


def take(
    cache: Cache, arrays: Sequence[Rows], which: Tensor, heads: Tensor, numbers: Tensor, limit: int
) -> Tensor:
    """Look up one row each of arrays ``[n]`` and heads ``[n]``, by its number: ``[n, *rest]``.

    ``n >= 1``, and all arrays that are asked have chunks of one length. No more than `limit`
    elements are read at a time.
    """
    like = arrays[int(which[0])]
    per_head = torch.tensor([rows.chunks_per_head for rows in arrays])
    ends = (like.heads * per_head).cumsum(0)  # chunks are numbered through all arrays
    begins = ends - like.heads * per_head
    chunk_of_each = begins[which] + heads * per_head[which] + numbers // like.chunk_rows
    chunks, inverse = chunk_of_each.unique(return_inverse=True)
    owners = torch.bucketize(chunks, ends, right=True)
    located = zip(owners.tolist(), (chunks - begins[owners]).tolist(), strict=True)
    wanted = [(arrays[index], number) for index, number in located]
    order = inverse.argsort()
    bounds = torch.searchsorted(inverse[order], torch.arange(len(chunks) + 1))
    found = torch.empty(len(numbers), *like.rest, dtype=like.dtype)
    step = max(1, limit // (like.chunk_rows * math.prod(like.rest)))
    for start in range(0, len(chunks), step):
        stop = min(start + step, len(chunks))
        block = cache.read(wanted[start:stop])
        places = order[bounds[start] : bounds[stop]]
        found[places] = block[inverse[places] - start, numbers[places] % like.chunk_rows]
    return found
