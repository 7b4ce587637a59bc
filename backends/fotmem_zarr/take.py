"""Single rows, looked up through the cache."""

import torch
from torch import Tensor

from fotmem_zarr.cache import Cache
from fotmem_zarr.rows import Rows


def take(cache: Cache, rows: Rows, heads: Tensor, numbers: Tensor, limit: int) -> Tensor:
    """Look up one row each of heads ``[n]``, by its number ``[n]``: ``[n, *rest]``.

    No more than `limit` elements are read at a time.
    """
    chunks, inverse = (heads * rows.chunks_per_head + numbers // rows.chunk_rows).unique(
        return_inverse=True
    )
    order = inverse.argsort()
    bounds = torch.searchsorted(inverse[order], torch.arange(len(chunks) + 1))
    found = torch.empty(len(numbers), *rows.rest, dtype=rows.dtype)
    step = max(1, limit * rows.dtype.itemsize // rows.chunk_bytes)
    for start in range(0, len(chunks), step):
        stop = min(start + step, len(chunks))
        block = cache.read(rows, chunks[start:stop].tolist())
        places = order[bounds[start] : bounds[stop]]
        found[places] = block[inverse[places] - start, numbers[places] % rows.chunk_rows]
    return found
