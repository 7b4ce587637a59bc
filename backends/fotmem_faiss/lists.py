"""Inverted lists of all heads in one FAISS index."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
import torch
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores import Arrays, Centring, Ids, Vectors, nearest_centres

ID = 8
"""Bytes of a key's id in a list."""
LARGEST = 2.0**15
"""Of a vector's numbers (those of the sample reach about 1): float16 ends at twice that."""


class Lists:
    """Keys of all heads by cluster: list ``h * L + l`` holds those of head ``h`` in cluster ``l``.

    One FAISS index for all heads: a search is one call, whose threads share all queries.
    """

    def __init__(self, clusters: "Clusters", index: Any, *, first: int) -> None:
        self.end = first  # id of the next key
        self._clusters = clusters
        self._across = clusters.centres.transpose(1, 2).contiguous()  # [H, D, L]: quicker so
        self._index = index
        self._sizes = np.array([index.get_list_size(i) for i in range(index.nlist)])
        self._held = np.maximum(self._sizes, 1)  # keys that lists had room for

    def add(self, first: int, keys: Tensor) -> None:
        """Append keys ``[H, n, D]``, float32, of which the first has id `first`."""
        vectors = self._clusters.frame.vectors(keys).clamp_(-LARGEST, LARGEST)
        places = self._clusters.lists_of(vectors).ravel()
        ids = np.tile(np.arange(first, first + keys.shape[1]), len(keys))
        flat = vectors.flatten(0, 1).numpy()
        pointers = (faiss.swig_ptr(array) for array in (flat, ids, places))
        self._index.add_core(len(flat), *pointers)
        self._sizes = self._sizes + np.bincount(places, minlength=len(self._sizes))
        self.end = first + keys.shape[1]

    def search(self, queries: Tensor, top_k: int) -> Tensor:
        """Find ids ``[H, Q, top_k]`` for queries ``[H, Q, D]``; -1 where there is none."""
        lists, scores = self._probed(queries)
        flat = queries.numpy().reshape(-1, queries.shape[2])
        _, ids = self._index.search_preassigned(flat, top_k, lists, scores)
        return torch.from_numpy(ids.reshape(*queries.shape[:2], top_k))

    def keys_read(self, queries: Tensor) -> float:
        """Count the keys that a search compares with each query ``[H, Q, D]``: the mean."""
        lists, _ = self._probed(queries)
        return float(self._sizes[lists].sum(1).mean())

    @property
    def ram_bytes(self) -> int:
        """Bytes of lists and centres in RAM. A list that is full gets twice the room."""
        doubled = np.ceil(np.log2(np.maximum(self._sizes, self._held) / self._held))
        room = float((self._held * 2**doubled).sum())
        centres = 3 * self._clusters.centres.nbytes  # here, transposed, and in FAISS
        return int(room * (self._index.code_size + ID)) + centres

    def tune(self, nprobe: int) -> None:
        """Search at most `nprobe` lists for each query."""
        self._index.nprobe = min(nprobe, self._clusters.centres.shape[1])

    def copy(self) -> Self:
        """Return an independent copy."""
        index = faiss.clone_index(self._index)
        return type(self)(self._clusters, index, first=self.end)

    def arrays(self) -> Arrays:
        """Return all of it as arrays, for `of_arrays`."""
        frame, centres, reach = self._clusters
        parts = {**frame._asdict(), "centres": centres, "reach": reach}
        return {
            "faiss": faiss.serialize_index(self._index),
            "end": np.array([self.end]),
            **{name: part.numpy() for name, part in parts.items()},
        }

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Self:
        """Restore the lists that returned `arrays`."""
        names = (*Centring._fields, "centres", "reach")
        parts = [torch.from_numpy(np.array(arrays[name])) for name in names]
        clusters = Clusters(Centring(*parts[:2]), *parts[2:])
        index = faiss.deserialize_index(arrays["faiss"])
        return cls(clusters, index, first=int(arrays["end"][0]))

    def _probed(self, queries: Tensor) -> tuple[Ids, Vectors]:
        """Choose lists for queries ``[H, Q, D]``, and score their centres: ``[H * Q, nprobe]``."""
        heads, count, _ = queries.shape
        length = block_length(self._clusters.reach.numel())
        lists = np.empty((heads, count, self._index.nprobe), np.int64)
        scores = np.empty(lists.shape, np.float32)
        for start in range(0, count, length):
            some = queries if count <= length else queries[:, start : start + length]
            every = torch.bmm(some, self._across)  # [H, Q, L]
            lengths = torch.linalg.vector_norm(some, dim=2, keepdim=True)
            hoped = torch.addcmul(every, lengths, self._clusters.reach)
            best = hoped.topk(self._index.nprobe, dim=2).indices
            lists[:, start : start + length] = best.numpy()
            scores[:, start : start + length] = every.gather(2, best).numpy()
        lists += self._clusters.first
        return lists.reshape(heads * count, -1), scores.reshape(heads * count, -1)


class Clusters(NamedTuple):
    """Where the lists of each head lie."""

    frame: Centring
    centres: Tensor
    """Shape ``[H, L, D]``."""
    reach: Tensor
    """Shape ``[H, 1, L]``: how far above its centre a list's best key is hoped to lie."""

    @property
    def first(self) -> Ids:
        """Shape ``[H, 1, 1]``: number of each head's first list."""
        heads, count, _ = self.centres.shape
        return np.arange(0, heads * count, count)[:, None, None]

    @classmethod
    def joined(cls, heads: Sequence[Self]) -> Self:
        """Join those of single heads."""
        frames, centres, reach = zip(*heads, strict=True)
        frame = Centring(*map(torch.cat, zip(*frames, strict=True)))
        return cls(frame, torch.cat(centres), torch.cat(reach))

    def lists_of(self, vectors: Tensor) -> Ids:
        """Assign vectors ``[H, n, D]`` to lists ``[H, n]``."""
        nearest: Ids = nearest_centres(vectors, self.centres).numpy()
        return nearest + self.first[..., 0]
