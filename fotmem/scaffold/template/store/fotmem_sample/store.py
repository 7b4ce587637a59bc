"""The store: keys and values in one tensor, searched block by block."""

from typing import Any

import torch
from torch import Tensor

from fotmem.stores import Hits, MemoryStore, best_hits
from fotmem_sample.options import SampleOptions

QUERIES = 256
"""Queries that are answered at a time."""


class SampleStore(MemoryStore):
    """Keys and values of one memory layer; every query looks at every key.

    Shapes: `H` heads, `N` keys, `Q` queries of a head, `K` hits of a query, `D` dimensions. Rows
    count keys from 0 in the order of adding. Temporaries hold about ``H * 256 * (block + 2 * K)``
    numbers.
    """

    def __init__(self, *, options: SampleOptions, **layer: Any) -> None:
        super().__init__(**layer)
        self.options = options
        self._size = 0
        self._data = self._allocate(0)

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values ``[H, N, D]`` each."""
        size = self._size + keys.shape[1]
        if size > self._data.shape[2]:  # twice the room: the time of an add stays bounded
            data = self._allocate(2 * size)
            data[:, :, : self._size] = self._data[:, :, : self._size]
            self._data = data
        self._data[0, :, self._size : size] = keys
        self._data[1, :, self._size : size] = values
        self._size = size  # last: a search in another thread sees whole rows only

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        """Find the best keys for queries ``[H, Q, D]``: rows and inner products ``[H, Q, K]``."""
        size = self._size
        keys = self._data[0, :, :size]  # [H, N, D]
        parts = [self._best(some.float(), keys, top_k) for some in queries.split(QUERIES, dim=1)]
        rows, scores = zip(*parts, strict=True)
        return Hits(torch.cat(rows, 1), torch.cat(scores, 1))

    def key_rows(self, rows: Tensor) -> Tensor:
        """Look up keys: rows ``[H, Q, K]``, keys ``[H, Q, K, D]``."""
        return _take(self._data[0], rows)

    def value_rows(self, rows: Tensor) -> Tensor:
        """Look up values: rows ``[H, Q, K]``, values ``[H, Q, K, D]``."""
        return _take(self._data[1], rows)

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        """Undo an `add_rows` that raised: keep the rows before `added`."""
        self._size = added
        return forgotten

    def _allocate(self, room: int) -> Tensor:
        shape = (2, self.num_heads, room, self.head_dim)  # keys, values
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        """Search block after block, keeping the best so far."""
        found: list[Hits] = []
        for start in range(0, keys.shape[1], self.options.block):
            block = keys[:, start : start + self.options.block].float()
            scores, rows = (queries @ block.transpose(1, 2)).topk(min(top_k, block.shape[1]))
            found = [best_hits([*found, Hits(rows + start, scores)], top_k)]
        return found[0]


def _take(data: Tensor, rows: Tensor) -> Tensor:
    heads = torch.arange(data.shape[0], device=data.device)[:, None, None]
    return data[heads, rows]  # [H, Q, K, D]
