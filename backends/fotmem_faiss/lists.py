"""Inverted lists of all heads in one FAISS index."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
import torch
from torch import Tensor

from fotmem import WORKSPACE, Frame, Ids, Vectors

LARGEST = 2.0**15
"""Of a vector's numbers (those of the sample reach about 1): float16 ends at twice that."""


class Lists:
    """Keys of all heads by cluster: list ``h * L + l`` holds those of head ``h`` in cluster ``l``.

    One FAISS index for all heads: a search is one call, whose threads share all queries.
    """

    def __init__(self, clusters: "Clusters", index: Any, *, first: int) -> None:
        self.end = first  # id of the next key
        self._clusters = clusters
        self._index = index

    def add(self, first: int, keys: Tensor) -> None:
        """Append keys ``[H, n, D]``, float32, of which the first has id `first`."""
        vectors = self._clusters.frame.vectors(keys).clamp_(-LARGEST, LARGEST)
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

    def keys_read(self, queries: Tensor) -> float:
        """Tell how many keys a search looks at for each of ``[H, Q, D]``: the mean."""
        lists, _ = self._clusters.probed(queries, self._index.nprobe)
        sizes = torch.tensor([self._index.get_list_size(i) for i in range(self._index.nlist)])
        return float(sizes[lists].sum(2).double().mean())

    def tune(self, nprobe: int) -> None:
        """Look at so many lists for each query, or at all."""
        self._index.nprobe = min(nprobe, self._clusters.centres.shape[1])

    def copy(self) -> Self:
        """Return independent lists."""
        index = faiss.clone_index(self._index)
        return type(self)(self._clusters, index, first=self.end)


class Clusters(NamedTuple):
    """Where the lists of each head lie."""

    frame: Frame
    centres: Tensor
    """Shape ``[H, L, D]``."""
    reach: Tensor
    """Shape ``[H, 1, L]``: how far above its centre a list's best key is hoped to lie."""

    @classmethod
    def joined(cls, heads: Sequence[Self]) -> Self:
        """Join those of single heads."""
        frames, centres, reach = zip(*heads, strict=True)
        frame = Frame(*map(torch.cat, zip(*frames, strict=True)))
        return cls(frame, torch.cat(centres), torch.cat(reach))

    def lists_of(self, vectors: Tensor) -> Tensor:
        """Assign vectors ``[H, n, D]`` to lists ``[H, n]``."""
        pairs = zip(vectors.numpy(), self.centres.numpy(), strict=True)
        nearest = np.stack([nearest_centres(*pair) for pair in pairs])
        return self._numbered(torch.from_numpy(nearest))

    def probed(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Choose lists for queries ``[H, Q, D]``; with the scores of their centres."""
        length = max(1, WORKSPACE // self.centres.shape[:2].numel())
        parts = []
        for some in queries.split(length, 1):
            scores = some @ self.centres.transpose(1, 2)  # [H, Q, L]
            hoped = torch.addcmul(scores, some.norm(dim=2, keepdim=True), self.reach)
            best = hoped.topk(count, dim=2).indices
            parts.append((best, scores.gather(2, best)))
        best, scores = (torch.cat(found, 1) for found in zip(*parts, strict=True))
        return self._numbered(best), scores

    def _numbered(self, clusters: Tensor) -> Tensor:
        """Turn numbers of clusters ``[H, ...]`` into numbers of lists."""
        heads, count, _ = self.centres.shape
        first = torch.arange(0, heads * count, count)
        return clusters + first.view(-1, *[1] * (clusters.ndim - 1))


def nearest_centres(vectors: Vectors, centres: Vectors) -> Ids:
    """Return the nearest of centres ``[L, D]`` to vectors ``[n, D]``: int64 ``[n]``."""
    nearest: Ids = faiss.knn(vectors, centres, 1)[1][:, 0]
    return nearest
