"""The `faiss-flat` store: exact search by FAISS."""

import importlib
from typing import Any

import faiss
import torch
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores import Hits, RowsStore, best_hits, exact_search
from fotmem_faiss.options import FlatOptions
from fotmem_faiss.threads import faiss_threads


class FlatStore(RowsStore):
    """Keys and values in rows that grow; FAISS looks at all keys, on the CPU or the GPU."""

    def __init__(self, *, options: FlatOptions, **layer: Any) -> None:
        super().__init__(**layer)
        self._threads = options.threads
        self._gpu = _gpu_resources() if self.device.type == "cuda" else None

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        queries = queries.float().contiguous()
        first, rows = self.stored_keys.since(self.forgotten_rows)
        if self.dtype == torch.float32:  # nothing to convert, so no need to do it in blocks
            ids, scores = self._search_block(queries, rows, top_k)
            return Hits(ids + first if first else ids, scores)
        found: list[Hits] = []
        length = max(block_length(self.num_heads, self.head_dim, 2), top_k)
        # One for all blocks: a new one costs a page fault for every 4 KiB.
        room = rows.new_empty(rows[:, :length].shape, dtype=torch.float32)
        for keys in rows.split(length, 1):
            wide = room[:, : keys.shape[1]].copy_(keys)
            ids, scores = self._search_block(queries, wide, min(top_k, keys.shape[1]))
            found = [best_hits([*found, Hits(ids + first, scores)], top_k)]
            first += keys.shape[1]
        return found[0]

    def _search_block(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        if self.device.type == "cpu":
            return faiss_threads(self._threads, lambda: _knn(queries, keys, top_k))
        if self._gpu is None:  # FAISS without GPU support: torch has it
            return exact_search(queries, keys, top_k)
        device = self.device.index or 0
        found = [
            faiss.knn_gpu(
                self._gpu, some, rows, top_k, metric=faiss.METRIC_INNER_PRODUCT, device=device
            )
            for some, rows in zip(queries, keys, strict=True)
        ]
        scores, ids = zip(*found, strict=True)
        return Hits(torch.stack(ids), torch.stack(scores))


def _knn(queries: Tensor, keys: Tensor, top_k: int) -> Hits:
    """Do what `faiss.knn` does, for all heads; each writes into its part of the result."""
    (heads, count, dim), length = queries.shape, keys.shape[1]
    ids = torch.empty(heads, count, top_k, dtype=torch.long)
    scores = torch.empty(heads, count, top_k, dtype=torch.float32)
    arrays = (each.numpy() for each in (queries, keys, scores, ids))
    for parts in zip(*arrays, strict=True):
        query, rows, best, near = map(faiss.swig_ptr, parts)
        faiss.knn_inner_product(query, rows, dim, count, length, top_k, best, near)
    return Hits(ids, scores)


def _gpu_resources() -> Any:
    """Let FAISS use the GPU and torch's tensors on it; None where it cannot."""
    if not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus()):
        return None
    importlib.import_module("faiss.contrib.torch_utils")  # lets FAISS take torch's tensors
    return faiss.StandardGpuResources()
