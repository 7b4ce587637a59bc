"""A base for stores that find keys by one graph per head, such as HNSW."""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fotmem.errors import DtypeError
from fotmem.stores.arrays import Ids, Vectors
from fotmem.stores.centring import Centring
from fotmem.stores.duplicate_keys import DuplicateKeys, first_equal
from fotmem.stores.indexed_store import IndexedStore
from fotmem.stores.parallel import over_heads
from fotmem.stores.saved_index import Arrays, named_parts, part_of, writable_tensor

FAR = 256.0
"""Distance of queries from the centre, in units of the longest key."""
FEW = 16
"""Queries of a head up to which one thread is faster than several."""


class Graph(ABC):
    """One head's index: finds near vectors by Euclidean distance.

    Arrays are C-contiguous, vectors and queries float32, ids int64. Several threads may search at
    a time, but never while the graph changes.
    """

    @abstractmethod
    def add(self, vectors: Vectors, ids: Ids) -> None:
        """Append vectors ``[n, D]`` with their ids ``[n]``, ``n >= 1``; ids only grow."""

    @abstractmethod
    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        """Find near vectors of ``[Q, D]``: ids and squared distances ``[Q, K]``, ``K <= count``.

        Ids are int64, nearest first, -1 where there is none. It is also called before anything was
        added, and for more than there is: return fewer columns, or -1. Distances may be of any
        float dtype: only `equal` looks at them.
        """

    @abstractmethod
    def copy(self) -> "Graph":
        """Return an independent graph."""

    @property
    def ram_bytes(self) -> int:
        """Bytes of the graph in RAM; 0: the library does not tell."""
        return 0

    def arrays(self) -> Arrays:
        """Return the graph as arrays, for `load`; needed where the store names `index_library`."""
        raise NotImplementedError("the graph of a store that names index_library can be saved")

    def load(self, arrays: Arrays) -> None:
        """Become the graph that returned `arrays`; called on a new one."""
        raise NotImplementedError("the graph of a store that names index_library can be loaded")

    def tune(self, options: Any) -> None:
        """Search by these options from now on; called if the store names `search_options`."""

    def equal(self, vectors: Vectors) -> Ids:
        """Find a vector equal to each of these: ids ``[n]``, -1 where there is none.

        By default it searches for the nearest, and takes it where its distance is 0: override it
        where the library has no distance that is 0 between equal vectors.
        """
        ids, distances = self.search(vectors, 1)
        if not ids.shape[1]:
            return np.full(len(vectors), -1)
        return np.where(distances[:, 0] == 0, ids[:, 0], -1)


class GraphStore(IndexedStore):
    """Base of a store with one graph of a library per head; a subclass implements `new_graph`.

    Attention queries do not look like keys, and keys have unequal norms: in a graph built by inner
    product, no path leads to many keys. So the graph is one of Euclidean distance between centred
    keys. Queries are made very long: from far away, the nearest key is the one with the largest
    inner product. Equal keys are in the graph once: duplicates would be neighbours of each
    other only.
    """

    @abstractmethod
    def new_graph(self, head: int) -> Graph:
        """Make an empty graph for the head with this number.

        Where the library draws at random, use a seed of its own for each head, such as
        ``self.options.seed + head``.
        """

    def build_index(self) -> None:
        self._centring = Centring.of(self._sample().cpu())
        self._duplicates = [DuplicateKeys() for _ in range(self.num_heads)]
        self._graphs = [self.new_graph(head) for head in range(self.num_heads)]
        for first, block in self.key_blocks(self.first_row, len(self.stored_keys)):
            self.extend_index(first, block)

    def extend_index(self, first: int, keys: Tensor) -> None:
        vectors = self._centring.vectors(keys)
        over_heads(
            lambda head: self._grow_graph(head, first, vectors[head].numpy()),
            self.num_heads,
            self.options.threads,
        )

    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        far, count = _moved_far(queries.numpy()), queries.shape[1]
        threads = 1 if count <= FEW else self.options.threads
        found = over_heads(
            lambda head: self._search_head(head, far[head], top_k), self.num_heads, threads
        )
        ids = np.concatenate(found).reshape(self.num_heads, count, top_k)
        return self._with_duplicates(queries, torch.from_numpy(ids), top_k)

    def _with_duplicates(self, queries: Tensor, ids: Tensor, top_k: int) -> Tensor:
        """Insert the duplicates of hits ``[H, Q, K]``, best first."""
        if not any(map(DuplicateKeys.among, self._duplicates, ids.numpy())):
            return ids
        scores = self._scored(queries.to(self.device), ids.to(self.device), None).scores.cpu()
        ids = ids.gather(2, scores.argsort(dim=2, descending=True))
        heads = zip(self._duplicates, ids.numpy(), strict=True)
        return torch.from_numpy(np.stack([each.following(found, top_k) for each, found in heads]))

    def tune_index(self) -> None:
        for graph in self._graphs:
            graph.tune(self.options)

    def copy_index(self, twin: Self) -> None:
        twin._graphs = [graph.copy() for graph in self._graphs]
        twin._duplicates = [each.copy() for each in self._duplicates]

    def index_bytes(self) -> int:
        return sum(graph.ram_bytes for graph in self._graphs)

    def index_arrays(self) -> Arrays:
        arrays = {name: part.numpy() for name, part in self._centring._asdict().items()}
        for head, graph in enumerate(self._graphs):
            arrays[f"duplicates/{head}"] = self._duplicates[head].array()
            arrays.update(named_parts(f"graph/{head}", graph.arrays()))
        return arrays

    def load_index(self, arrays: Arrays) -> None:
        self._centring = Centring(*(writable_tensor(arrays[name]) for name in Centring._fields))
        heads = range(self.num_heads)
        self._duplicates = [DuplicateKeys.of_array(arrays[f"duplicates/{i}"]) for i in heads]
        self._graphs = [self.new_graph(head) for head in heads]
        for head, graph in enumerate(self._graphs):
            graph.load(part_of(arrays, f"graph/{head}"))

    def _grow_graph(self, head: int, first: int, vectors: Vectors) -> None:
        """Add the vectors that are new; note which the others are duplicates of."""
        graph, ids = self._graphs[head], np.arange(first, first + len(vectors))
        earlier = first_equal(vectors)
        fresh = np.flatnonzero(earlier == np.arange(len(vectors)))
        owners = _checked(graph.equal(vectors[fresh]), graph, "equal")
        new = owners < 0
        if new.any():
            graph.add(vectors[fresh[new]], ids[fresh[new]])
        owner_of = ids.copy()
        owner_of[fresh[~new]] = owners[~new]
        owner_of = owner_of[earlier]
        equal = owner_of != ids
        if equal.any():
            self._duplicates[head].note(owner_of[equal], ids[equal])

    def _search_head(self, head: int, queries: Vectors, top_k: int) -> Ids:
        graph = self._graphs[head]
        found = _checked(graph.search(queries, top_k)[0], graph, "search")
        missing = top_k - found.shape[1]
        return np.pad(found, ((0, 0), (0, missing)), constant_values=-1) if missing else found


def _checked(ids: Ids, graph: Graph, method: str) -> Ids:
    """Refuse ids that are not int64: no unsigned integer is -1, and int32 ends at 2**31."""
    if ids.dtype != np.int64:
        name = f"ids of {type(graph).__name__}.{method}"
        raise DtypeError(name, expected="int64", actual=ids.dtype, cure="use ids.astype(np.int64)")
    return ids


def _moved_far(queries: Vectors) -> Vectors:
    """Move queries ``[H, Q, D]`` far out along their direction; 0 stays."""
    tiny = np.finfo(queries.dtype).tiny
    alike = queries / np.maximum(np.abs(queries).max(2, keepdims=True), tiny)  # may be huge
    lengths = np.sqrt(np.einsum("hqd,hqd->hq", alike, alike))[..., None]
    far: Vectors = FAR * alike / np.maximum(lengths, tiny)
    return far
