"""Exact search and attention over keys and values in memory."""

from torch import Tensor

from fotmem.attention import PartialAttention, dense_attention
from fotmem.stores import Hits, RowsStore


class ExactStore(RowsStore):
    """Keys and values in tensors that double when full, on CPU or CUDA.

    `exact_search` and `dense_attention` work in blocks, so that temporaries stay small.
    """

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return self.search_rows_biased(queries, top_k, None)

    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        _, keys = self.stored_keys.since(self.forgotten_rows)
        if top_k is not None and top_k < keys.shape[1]:
            return super().attend_rows(queries, top_k, scale)
        _, values = self.stored_values.since(self.forgotten_rows)
        values = values[:, : keys.shape[1]]  # a thread that adds meanwhile adds values first
        out, lse = dense_attention(queries[None], keys[None], values[None], scale=scale)
        return PartialAttention(out[0], lse[0])
