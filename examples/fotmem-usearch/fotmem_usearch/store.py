"""Approximate search by the graphs of USearch."""

import numpy as np
from usearch.index import Index, Matches

from fotmem.stores import Graph, GraphStore, Ids, Vectors
from fotmem_usearch.plugin import UsearchOptions


class UsearchGraph(Graph):
    """One head's graph."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def add(self, vectors: Vectors, ids: Ids) -> None:
        self._index.add(ids, vectors, threads=1)

    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        found = self._index.search(queries, count, threads=1)
        if isinstance(found, Matches):  # of a single query, and as many as there are
            return found.keys[None].astype(np.int64), found.distances[None]
        there = np.arange(count) < found.counts[:, None]
        return np.where(there, found.keys.astype(np.int64), -1), found.distances

    def copy(self) -> "UsearchGraph":
        return UsearchGraph(self._index.copy())


class UsearchStore(GraphStore):
    """One graph per head."""

    options: UsearchOptions

    def new_graph(self, head: int) -> Graph:
        index = Index(
            ndim=self.head_dim,
            metric="l2sq",
            dtype="f32",
            connectivity=self.options.connectivity,
            expansion_add=self.options.expansion_add,
            expansion_search=self.options.expansion_search,
        )
        return UsearchGraph(index)
