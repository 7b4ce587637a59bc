"""The `faiss-flat` store: exact search by FAISS."""

import copy
import importlib
from collections.abc import Iterator
from typing import Any, Self

import faiss
import torch
from torch import Tensor

from fotmem import WORKSPACE, Bias, Hits, MemoryStore, Rows, best_hits, exact_search
from fotmem_faiss.plugin import FlatOptions
from fotmem_faiss.threads import faiss_threads


class FlatStore(MemoryStore):
    """Keys and values in rows that grow; FAISS looks at all keys, on the CPU or the GPU."""

    def __init__(self, *, options: FlatOptions, **layer: Any) -> None:
        super().__init__(**layer)
        self._threads = options.threads
        self._gpu = _gpu_resources() if self.device.type == "cuda" else None
        self._key_rows, self._value_rows = (
            Rows(self.num_heads, self.head_dim, dtype=self.dtype, device=self.device)
            for _ in range(2)
        )

    def _add(self, keys: Tensor, values: Tensor) -> None:
        for rows in (self._key_rows, self._value_rows):
            rows.reserve(keys.shape[1])  # whatever fails, fails here: nothing is added
        self._value_rows.add(values)
        self._key_rows.add(keys)

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        queries = queries.float().contiguous()
        found: list[Hits] = []
        whole = self.dtype == torch.float32  # nothing to convert, so no need to do it in blocks
        converted = max(WORKSPACE // (self.num_heads * self.head_dim), top_k)
        length = len(self._key_rows) if whole else converted
        for first, keys in self._key_rows.blocks(self._forgotten, len(self._key_rows), length):
            hits = self._search_block(queries, keys.float(), min(top_k, keys.shape[1]))
            found = [best_hits([*found, Hits(hits.ids + first, hits.scores)], top_k)]
        return found[0]

    def _search_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        blocks = self._key_rows.blocks(self._forgotten, len(self._key_rows), WORKSPACE)
        parts = [
            exact_search(queries, keys, top_k, first_id=first, bias=bias) for first, keys in blocks
        ]
        return best_hits(parts, top_k)

    def _search_block(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        if self.device.type == "cpu":
            with faiss_threads(self._threads):
                parts = [
                    faiss.knn(some.numpy(), rows.numpy(), top_k, faiss.METRIC_INNER_PRODUCT)
                    for some, rows in zip(queries, keys, strict=True)
                ]
            scores, ids = zip(*parts, strict=True)
            return Hits(*(torch.stack([torch.from_numpy(x) for x in y]) for y in (ids, scores)))
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

    def _keys(self, ids: Tensor) -> Tensor:
        return self._key_rows.take(ids)

    def _values(self, ids: Tensor) -> Tensor:
        return self._value_rows.take(ids)

    def _stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        length = max(1, WORKSPACE // (self.num_heads * self.head_dim))
        pairs = (
            rows.blocks(self._forgotten, self._added, length)
            for rows in (self._key_rows, self._value_rows)
        )
        for (_, keys), (_, values) in zip(*pairs, strict=True):
            yield keys, values

    def _forget(self, count: int) -> None:
        for rows in (self._key_rows, self._value_rows):
            rows.forget(self._forgotten + count)

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin._key_rows, twin._value_rows = self._key_rows.copy(), self._value_rows.copy()
        return twin


def _gpu_resources() -> Any:
    """Let FAISS use the GPU and torch's tensors on it; None where it cannot."""
    if not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus()):
        return None
    importlib.import_module("faiss.contrib.torch_utils")  # lets FAISS take torch's tensors
    return faiss.StandardGpuResources()
