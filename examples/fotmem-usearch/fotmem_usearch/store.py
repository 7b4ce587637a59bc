"""The store: one graph of USearch per head."""

import numpy as np
from usearch.index import Index, Matches

from fotmem.stores import Graph, GraphStore, Ids, Vectors
from fotmem_usearch.options import UsearchOptions


class UsearchGraph(Graph):
    """The index of one head."""

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

    def tune(self, options: UsearchOptions) -> None:
        self._index.expansion_search = options.expansion_search  # type: ignore[misc] # it may


class UsearchStore(GraphStore):
    """Keys and values of one memory layer, with one graph per head.

    `GraphStore` keeps keys and values, looks at all keys while they are few, turns inner products
    into distances, and computes the scores of hits again from the keys as stored.
    """

    options: UsearchOptions
    search_options = frozenset({"expansion_search"})

    def new_graph(self, head: int) -> Graph:
        """Make an empty graph."""
        index = Index(
            ndim=self.head_dim,
            metric="l2sq",
            dtype="f32",
            connectivity=self.options.connectivity,
            expansion_add=self.options.expansion_add,
            expansion_search=self.options.expansion_search,
        )
        return UsearchGraph(index)
