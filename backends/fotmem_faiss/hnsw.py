"""The `faiss-hnsw` store: one graph of FAISS per head."""

from typing import Any, Self

import faiss
import numpy as np

from fotmem.stores import Arrays, Graph, GraphStore, Ids, Vectors
from fotmem_faiss.options import HnswOptions
from fotmem_faiss.threads import faiss_threads

QUICK = 16
"""Candidates that suffice to find a vector that is in the graph."""


class FaissGraph(Graph):
    """One head's graph."""

    def __init__(self, head_dim: int, options: HnswOptions, seed: int) -> None:
        self.tune(options)
        self._index = faiss.IndexHNSWFlat(head_dim, options.M)
        self._index.hnsw.efConstruction = options.ef_construction
        self._index.hnsw.rng = faiss.RandomGenerator(seed)
        self._ids = np.full(1, -1)  # of FAISS's positions; it ends with that of none, -1

    def add(self, vectors: Vectors, ids: Ids) -> None:
        faiss_threads(1, lambda: self._index.add(vectors))
        self._ids = np.concatenate([self._ids[:-1], ids, self._ids[-1:]])

    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        options = self._options if count <= self._options.efSearch else _with_effort(count)
        distances, places = faiss_threads(
            1, lambda: self._index.search(queries, count, params=options)
        )
        return self._ids[places], distances

    def tune(self, options: HnswOptions) -> None:
        self._options = _with_effort(options.ef_search)

    def equal(self, vectors: Vectors) -> Ids:
        usual, self._options = self._options, _with_effort(QUICK)
        try:
            return super().equal(vectors)
        finally:
            self._options = usual

    @property
    def ram_bytes(self) -> int:
        index, links = self._index, self._index.hnsw
        count, sizes = index.ntotal, (links.neighbors.size(), links.levels.size())
        vectors, offsets = count * index.d * 4, (count + 1) * 8
        return int(vectors + offsets + sum(sizes) * 4 + self._ids.nbytes)

    def arrays(self) -> Arrays:
        return {"faiss": faiss.serialize_index(self._index), "ids": self._ids}

    def load(self, arrays: Arrays) -> None:
        rng = self._index.hnsw.rng
        self._index = faiss.deserialize_index(arrays["faiss"])
        self._index.hnsw.rng, self._ids = rng, arrays["ids"]

    def copy(self) -> Self:
        twin = type(self).__new__(type(self))
        twin._options, twin._ids = self._options, self._ids
        twin._index = faiss.clone_index(self._index)
        return twin


def _with_effort(candidates: int) -> Any:
    return faiss.SearchParametersHNSW(efSearch=candidates)


class HnswStore(GraphStore):
    """One HNSW graph per head (Malkov and Yashunin 2018, arXiv:1603.09320)."""

    options: HnswOptions
    search_options = frozenset({"ef_search"})
    index_library = f"faiss {faiss.__version__}"

    def new_graph(self, head: int) -> Graph:
        return FaissGraph(self.head_dim, self.options, self.options.seed + head)
