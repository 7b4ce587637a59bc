"""Exact search and attention over keys and values in memory."""

from torch import Tensor

from fotmem import Hits, PartialAttention, RowsStore, dense_attention


class ExactStore(RowsStore):
    """Keys and values in tensors that double when full, on CPU or CUDA.

    `search` and `attend` work in blocks (`fotmem.exact_search`, `fotmem.dense_attention`), so that
    their temporaries stay small.
    """

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        return self._search_biased(queries, top_k, None)

    def _attend(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        _, keys = self._key_rows.since(self._forgotten)
        if top_k is not None and top_k < keys.shape[1]:
            return super()._attend(queries, top_k, scale)
        _, values = self._value_rows.since(self._forgotten)
        values = values[:, : keys.shape[1]]  # who adds meanwhile adds values first
        out, lse = dense_attention(queries[None], keys[None], values[None], scale=scale)
        return PartialAttention(out[0], lse[0])
