"""Approximate search by the graphs of hnswlib."""

import copy
from importlib.metadata import version
from typing import Any

import hnswlib
import numpy as np

from fotmem.stores import Arrays, Graph, GraphStore, Ids, Vectors, array_to_file, file_to_array
from fotmem_hnsw.options import HnswOptions

CAPACITY = 2**13
"""Vectors for which a new graph has room."""
LABEL, KNOWN, ROOM = 8, 56, 54
"""Bytes of a vector's label in its row, of its entry in the table of labels, and of what hnswlib
has for each vector that there is room for: a lock (40), its level (4), links (8) and a mark (2)."""
ALLOCATED = 16
"""Bytes that an allocation takes besides."""
LOCKS = 2**16 * 40
"""Bytes of the locks of labels."""
QUICK = 16
"""Candidates that suffice to find a vector that is in the graph."""


class HnswGraph(Graph):
    """One head's graph."""

    def __init__(self, head_dim: int, options: HnswOptions, seed: int) -> None:
        self._ef_search = options.ef_search
        self._index: Any = hnswlib.Index(space="l2", dim=head_dim)
        self._index.init_index(
            max_elements=CAPACITY,
            M=options.M,
            ef_construction=options.ef_construction,
            random_seed=seed,
        )
        self._index.set_ef(options.ef_search)

    def add(self, vectors: Vectors, ids: Ids) -> None:
        size = self._index.get_current_count() + len(vectors)
        if size > self._index.get_max_elements():
            self._index.resize_index(2 * size)
        self._index.add_items(vectors, ids, num_threads=1)

    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        count = min(count, self._index.get_current_count())
        while count:
            try:
                ids, distances = self._index.knn_query(queries, count, num_threads=1)
            except RuntimeError:  # for some query it reached fewer
                count //= 2
            else:
                return ids.astype(np.int64), distances
        none = np.empty((len(queries), 0))
        return none.astype(np.int64), none.astype(np.float32)

    def tune(self, options: HnswOptions) -> None:
        self._ef_search = options.ef_search
        self._index.set_ef(options.ef_search)

    def equal(self, vectors: Vectors) -> Ids:
        self._index.set_ef(QUICK)
        try:
            return super().equal(vectors)
        finally:
            self._index.set_ef(self._ef_search)

    @property
    def ram_bytes(self) -> int:
        count, links = self._index.get_current_count(), self._index.M
        lowest = 4 * self._index.dim + 4 * (2 * links + 1) + LABEL
        upper = count / (links - 1) * (4 * (links + 1) + ALLOCATED)
        return int(count * (lowest + KNOWN) + upper + self._index.get_max_elements() * ROOM) + LOCKS

    def arrays(self) -> Arrays:
        return {"file": file_to_array(self._index.save_index)}

    def load(self, arrays: Arrays) -> None:
        self._index = hnswlib.Index(space="l2", dim=self._index.dim)
        array_to_file(arrays["file"], self._index.load_index)
        self._index.set_ef(self._ef_search)

    def copy(self) -> "HnswGraph":
        return copy.deepcopy(self)


class HnswStore(GraphStore):
    """One HNSW graph per head (Malkov and Yashunin 2018, arXiv:1603.09320)."""

    options: HnswOptions
    search_options = frozenset({"ef_search"})
    index_library = f"hnswlib {version('hnswlib')}"

    def new_graph(self, head: int) -> Graph:
        return HnswGraph(self.head_dim, self.options, self.options.seed + head)
