"""The store: one graph per head."""

import copy

import numpy as np

from fotmem.stores import Graph, GraphStore, Ids, Vectors
from fotmem_sample.options import SampleOptions


class SampleGraph(Graph):
    """The index of one head. Put your library's index here: this one compares every vector.

    Vectors and queries are float32, ids are int64 and only grow.
    """

    def __init__(self, head_dim: int, options: SampleOptions) -> None:
        self._vectors = np.empty((0, head_dim), np.float32)
        self._ids = np.empty(0, np.int64)
        self._size = 0
        self._block = options.block

    def add(self, vectors: Vectors, ids: Ids) -> None:
        """Append vectors ``[n, D]`` with their ids ``[n]``."""
        start, self._size = self._size, self._size + len(ids)
        if self._size > len(self._ids):  # twice the room: the time of an add stays bounded
            self._vectors = np.resize(self._vectors, (2 * self._size, self._vectors.shape[1]))
            self._ids = np.resize(self._ids, 2 * self._size)
        self._vectors[start : self._size] = vectors
        self._ids[start : self._size] = ids

    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        """Find the nearest of ``[Q, D]``: ids and squared distances ``[Q, K]``, ``K <= count``.

        It may be called before the first `add`, and `count` may exceed the number of vectors.
        """
        count = min(count, self._size)
        ids = np.empty((len(queries), count), np.int64)
        distances = np.empty((len(queries), count), np.float32)
        for at in range(0, len(queries) if count else 0, self._block):
            some = slice(at, at + self._block)
            ids[some], distances[some] = self._nearest(queries[some], count)
        return ids, distances

    def equal(self, vectors: Vectors) -> Ids:
        """Name none: equal vectors do no harm here. Leave this out with a library."""
        return np.full(len(vectors), -1)

    def copy(self) -> "SampleGraph":
        """Return an independent graph."""
        return copy.deepcopy(self)

    def tune(self, options: SampleOptions) -> None:
        """Search by these options from now on."""
        self._block = options.block

    def _nearest(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        vectors = self._vectors[: self._size]
        # The square of a query is added last: it is large, and would round differences away.
        ranks = (vectors**2).sum(1) - 2 * queries @ vectors.T  # [Q, n]
        best = np.argpartition(ranks, count - 1, axis=1)[:, :count]
        ranks = np.take_along_axis(ranks, best, 1)
        order = ranks.argsort(axis=1)
        rows = np.take_along_axis(best, order, 1)
        squares = (queries**2).sum(1, keepdims=True)
        return self._ids[rows], np.take_along_axis(ranks, order, 1) + squares


class SampleStore(GraphStore):
    """Keys and values of one memory layer, with one graph per head.

    `GraphStore` keeps keys and values, looks at all keys while they are few, turns inner products
    into distances, and computes the scores of hits again from the keys as stored.
    """

    options: SampleOptions
    search_options = frozenset({"block"})

    def new_graph(self, head: int) -> Graph:
        """Make an empty graph. Seed what is random with ``self.options.seed + head``."""
        return SampleGraph(self.head_dim, self.options)
