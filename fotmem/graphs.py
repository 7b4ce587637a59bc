"""Stores that find keys by one graph per head, such as HNSW."""

import math
from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.attention import WORKSPACE
from fotmem.indexed import IndexedStore
from fotmem.parallel import over_heads

FAR = 64.0
"""How far out queries stand, in units of the longest key."""
FEW = 16
"""Queries of a head that are answered sooner by one thread than by several."""

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]


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
        """Find near ones for ``[Q, D]``: ids and squared distances ``[Q, K]``, ``K <= count``.

        Nearest first; id -1 where there is none. A graph may be searched before anything is in
        it, and `count` may exceed what is: then there are fewer columns, or more -1.
        """

    @abstractmethod
    def copy(self) -> "Graph":
        """Return an independent graph."""

    def equal(self, vectors: Vectors) -> Ids:
        """Find vectors equal to these, or nearly: ids ``[n]``, -1 where there is none."""
        ids, distances = self.search(vectors, 1)
        if not ids.shape[1]:
            return np.full(len(vectors), -1)
        return np.where(distances[:, 0] == 0, ids[:, 0], -1)


class GraphStore(IndexedStore):
    """Base of a store with one graph of a library per head; a subclass implements `_new_graph`.

    Attention queries do not look like keys, and keys are of unequal norm: a graph built by inner
    product leaves many keys without a way to them. So the graph is one of Euclidean distance
    between centred keys, and a query is moved far out along its direction, where the nearest keys
    are those with the largest inner product. Equal keys are in the graph once: copies would be each
    other's neighbours, and nobody else's.
    """

    @abstractmethod
    def _new_graph(self, head: int) -> Graph:
        """Make an empty graph."""

    def _build(self) -> None:
        keys = self._sample().cpu()
        self._center = keys.mean(1, keepdim=True)  # [H, 1, D]
        tiny = torch.finfo(keys.dtype).tiny
        largest = (keys - self._center).abs().amax((1, 2), keepdim=True).clamp(min=tiny)
        self._unit = largest * math.sqrt(self.head_dim)  # about the longest key
        self._copies: list[dict[int, list[int]]] = [{} for _ in range(self.num_heads)]
        self._graphs = [self._new_graph(head) for head in range(self.num_heads)]
        for first, block in self._key_blocks(self._start, len(self._key_rows)):
            self._extend(first, block)

    def _extend(self, first: int, keys: Tensor) -> None:
        vectors = ((keys - self._center) / self._unit).numpy()
        over_heads(
            lambda head: self._grow(head, first, vectors[head]),
            self.num_heads,
            self.options.threads,
        )

    def _find(self, queries: Tensor, top_k: int) -> Tensor:
        length = queries.norm(dim=2, keepdim=True).clamp(min=torch.finfo(queries.dtype).tiny)
        far = (queries * (FAR / length)).numpy()
        threads = 1 if queries.shape[1] <= FEW else self.options.threads
        found = over_heads(
            lambda head: self._search_head(head, far[head], top_k), self.num_heads, threads
        )
        ids = torch.from_numpy(np.stack(found))
        return self._with_copies(queries, ids, top_k) if any(self._copies) else ids

    def _clone(self, twin: Self) -> None:
        twin._graphs = [graph.copy() for graph in self._graphs]
        twin._copies = [
            {first: list(ids) for first, ids in copies.items()} for copies in self._copies
        ]

    def _grow(self, head: int, first: int, vectors: Vectors) -> None:
        """Add the vectors that are new; note of which one the others are copies."""
        graph, copies = self._graphs[head], self._copies[head]
        earlier = _first_equal(vectors)
        fresh = np.flatnonzero(earlier == np.arange(len(vectors)))
        owners = graph.equal(vectors[fresh])
        new = owners < 0
        if new.any():
            graph.add(vectors[fresh[new]], first + fresh[new])
        owner_of = np.arange(first, first + len(vectors))
        owner_of[fresh[~new]] = owners[~new]
        owner_of = owner_of[earlier]
        for place in np.flatnonzero(owner_of != np.arange(first, first + len(vectors))).tolist():
            copies.setdefault(int(owner_of[place]), []).append(first + place)

    def _search_head(self, head: int, queries: Vectors, top_k: int) -> Ids:
        found, _ = self._graphs[head].search(queries, top_k)
        missing = top_k - found.shape[1]
        return np.pad(found, ((0, 0), (0, missing)), constant_values=-1) if missing else found

    def _with_copies(self, queries: Tensor, ids: Tensor, top_k: int) -> Tensor:
        """Let the copies of each hit ``[H, Q, K]`` follow it, best first."""
        scores = self._scored(queries.to(self.device), ids.to(self.device), None).scores.cpu()
        ids = ids.gather(2, scores.argsort(dim=2, descending=True))
        step = max(1, WORKSPACE // top_k**2)
        heads = [
            np.concatenate(
                [_expanded(some.numpy(), copies, top_k) for some in found.split(step, 0)]
            )
            for found, copies in zip(ids, self._copies, strict=True)
        ]
        return torch.from_numpy(np.stack(heads))


def _first_equal(vectors: Vectors) -> Ids:
    """Tell of each vector ``[n, D]`` which one is the first that equals it: ``[n]``."""
    draw = np.random.default_rng(0).integers(2**63, size=vectors.shape[1], dtype=np.int64)
    hashes = (vectors.view(np.int32) * draw).sum(1)
    _, firsts, places = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = firsts[places]
    same = (vectors[earlier] == vectors).all(1)
    return np.where(same, earlier, np.arange(len(vectors)))


def _expanded(found: Ids, copies: dict[int, list[int]], top_k: int) -> Ids:
    """Let the copies of each hit ``[Q, K]`` follow it; ``[Q, top_k]``."""
    owners, places = np.unique(found, return_inverse=True)
    table = np.full((len(owners), top_k), -1, dtype=np.int64)
    for row, owner in enumerate(owners.tolist()):
        same = [owner, *copies.get(owner, [])[1 - top_k :]] if top_k > 1 else [owner]
        table[row, : len(same)] = same
    every = table[places.reshape(found.shape)].reshape(len(found), -1)
    order = np.argsort(every < 0, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(every, order, axis=1)
