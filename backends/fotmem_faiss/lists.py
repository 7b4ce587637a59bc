"""Inverted lists of all heads in one FAISS index."""

import math
from collections.abc import Generator
from typing import Any, Self

import faiss
import numpy as np
import torch
from torch import Tensor

from fotmem import WORKSPACE

SPREAD = 0.3
"""How far above its centre a list's best key is hoped to lie, in units of its spread."""
CODES_FROM = 2**14
"""Vectors that are enough to train the codes."""


class Lists:
    """Keys of all heads by cluster: list ``h * L + l`` holds those of head ``h`` in cluster ``l``.

    One FAISS index for all heads: a search is one call, whose threads share all queries.
    """

    def __init__(self, clusters: "Clusters", index: Any, *, trained_for: int, first: int) -> None:
        self.trained_for = trained_for
        self.end = first  # id of the next key
        self._clusters = clusters
        self._index = index

    def add(self, first: int, keys: Tensor) -> None:
        """Append keys ``[H, n, D]``, float32, of which the first has id `first`."""
        vectors = self._clusters.normal(keys)
        places = self._clusters.lists_of(vectors).flatten().numpy()
        ids = np.tile(np.arange(first, first + keys.shape[1]), len(keys))
        flat = vectors.flatten(0, 1).numpy()
        pointers = (faiss.swig_ptr(array) for array in (flat, ids, places))
        self._index.add_core(len(flat), *pointers)
        self.end = first + keys.shape[1]

    def search(self, queries: Tensor, top_k: int) -> Tensor:
        """Find ids ``[H, Q, top_k]`` for queries ``[H, Q, D]``; -1 where there is none."""
        lists, scores = self._clusters.probed(queries, self._index.nprobe)
        shape = (*queries.shape[:2], top_k)
        _, ids = self._index.search_preassigned(
            queries.flatten(0, 1).numpy(),
            top_k,
            lists.flatten(0, 1).numpy(),
            scores.flatten(0, 1).numpy(),
        )
        return torch.from_numpy(ids).view(shape)

    def copy(self) -> Self:
        """Return independent lists."""
        index = faiss.clone_index(self._index)
        twin = type(self)(self._clusters, index, trained_for=self.trained_for, first=self.end)
        return twin


class Clusters:
    """Where the lists of each head lie, in keys that are centred and brought to a common scale."""

    def __init__(self, sample: Tensor) -> None:
        tiny = torch.finfo(sample.dtype).tiny
        self._mean = sample.mean(1, keepdim=True)  # [H, 1, D]
        largest = (sample - self._mean).abs().amax((1, 2), keepdim=True).clamp(min=tiny)
        self._unit = largest * math.sqrt(sample.shape[2])  # about the longest key
        self.centres = torch.empty(0)  # [H, L, D]
        self._spread = torch.empty(0)  # [H, L]: typical distance of a key from its centre

    def normal(self, keys: Tensor) -> Tensor:
        """Centre and scale keys: the ranking by inner product stays what it is."""
        return (keys - self._mean) / self._unit

    def settle(self, centres: Tensor, vectors: Tensor) -> None:
        """Take the centres found by k-means, and learn from a sample how wide the clusters are."""
        self.centres = centres
        nearest = self._nearest(vectors)
        offsets = vectors - centres.gather(1, nearest[..., None].expand_as(vectors))
        squares = torch.zeros(centres.shape[:2]).scatter_add_(1, nearest, offsets.square().sum(-1))
        counts = torch.zeros(centres.shape[:2]).scatter_add_(1, nearest, torch.ones(nearest.shape))
        self._spread = (squares / counts.clamp(min=1)).sqrt()

    def lists_of(self, vectors: Tensor) -> Tensor:
        """Assign vectors ``[H, n, D]`` to lists ``[H, n]``."""
        return self._numbered(self._nearest(vectors))

    def probed(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Choose lists for queries ``[H, Q, D]``; with the scores of their centres."""
        length = max(1, WORKSPACE // self.centres.shape[:2].numel())
        parts = []
        for some in queries.split(length, 1):
            scores = some @ self.centres.transpose(1, 2)  # [H, Q, L]
            hoped = SPREAD * some.norm(dim=2, keepdim=True) * self._spread[:, None]
            best = (scores + hoped).topk(count, dim=2).indices
            parts.append((best, scores.gather(2, best)))
        best, scores = (torch.cat(found, 1) for found in zip(*parts, strict=True))
        return self._numbered(best), scores

    def _nearest(self, vectors: Tensor) -> Tensor:
        offsets = -self.centres.square().sum(2)[:, None] / 2  # [H, 1, L]
        length = max(1, WORKSPACE // self.centres.shape[:2].numel())
        parts = [
            torch.baddbmm(offsets, some, self.centres.transpose(1, 2)).argmax(2)
            for some in vectors.split(length, 1)
        ]
        return torch.cat(parts, 1)

    def _numbered(self, clusters: Tensor) -> Tensor:
        """Turn numbers of clusters ``[H, ...]`` into numbers of lists."""
        heads = torch.arange(len(clusters)).view(-1, *[1] * (clusters.ndim - 1))
        return clusters + heads * self.centres.shape[1]


def train_lists(
    sample: Tensor,
    count: int,
    *,
    iterations: int,
    nprobe: int,
    seed: int,
    code_size: int | None,
    trained_for: int,
    first: int,
) -> Generator[int, None, Lists]:
    """Cluster a sample ``[H, n, D]`` into `count` lists a head.

    Yields
    ------
    int
        After each step, how many vectors were compared with all centres.

    Returns
    -------
    Lists
        Without keys.
    """
    clusters = Clusters(sample)
    vectors = clusters.normal(sample)
    order = torch.randperm(sample.shape[1], generator=torch.Generator().manual_seed(seed))
    centres = [some[order[:count]].numpy() for some in vectors]
    for _ in range(iterations):
        for head, some in enumerate(vectors):
            centres[head] = _improved(centres[head], some.numpy(), seed)
            yield len(some)
    clusters.settle(torch.from_numpy(np.stack(centres)), vectors)
    index = _index(clusters, vectors, code_size)
    index.nprobe = min(nprobe, count)
    return Lists(clusters, index, trained_for=trained_for, first=first)


def _improved(centres: np.ndarray[Any, Any], vectors: np.ndarray[Any, Any], seed: int) -> Any:
    """Do one iteration of k-means."""
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        len(centres),
        niter=1,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    kmeans.train(vectors, init_centroids=centres)
    return kmeans.centroids


def _index(clusters: Clusters, vectors: Tensor, code_size: int | None) -> Any:
    """Make an empty index; which list a key belongs to is never asked of it."""
    heads, count, dim = clusters.centres.shape
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(clusters.centres.flatten(0, 1).numpy())
    if code_size is None:
        index = faiss.IndexIVFFlat(quantizer, dim, heads * count, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(
            quantizer, dim, heads * count, code_size, 8, faiss.METRIC_INNER_PRODUCT
        )
        lists = clusters.lists_of(vectors).flatten()
        offsets = vectors.flatten(0, 1) - clusters.centres.flatten(0, 1)[lists]
        step = -(-len(offsets) // CODES_FROM)
        index.pq.cp.niter = 10
        index.pq.train(np.ascontiguousarray(offsets[::step].numpy()))
    index.is_trained = True
    return index
