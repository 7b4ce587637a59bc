"""Hand-written searches with the libraries of stores: the same index, keys and threads.

The library names candidates, whose scores are computed anew from the keys as stored. What a store
does besides is its overhead: checks and conversions, hubs, ids, the lock.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fotmem.attention import converted_length
from fotmem.stores import MemoryStore
from fotmem.stores.graph_store import FAR

Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Takes queries ``[H, Q, D]`` and k; returns ids and scores ``[H, Q, k]``."""
RESCORED = 512
"""Queries whose candidates are scored at a time."""


def bare_search(store: MemoryStore, name: str, keys: Tensor) -> Search:
    """Return the bare search of a filled store; its keys ``[H, N, D]``, queries float32."""
    if name in ("exact", "faiss-flat"):
        return _products(keys) if name == "exact" else _flat(keys)
    find = {
        "faiss-ivf": _lists,
        "faiss-ivfpq": _lists,
        "faiss-hnsw": _faiss_graphs,
        "hnsw": _graphs,
    }[name](store)

    def search(queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        return _rescored(keys, queries, torch.from_numpy(find(queries, top_k)), top_k)

    return search


def _pieces(keys: Tensor) -> Sequence[Tensor]:
    """Split keys ``[H, N, D]``: those in 2 bytes become float32 in pieces."""
    return (keys,) if keys.dtype == torch.float32 else keys.split(converted_length(keys), 1)


def _products(keys: Tensor) -> Search:
    pieces = _pieces(keys)

    def search(queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        parts = [queries @ some.float().transpose(1, 2) for some in pieces]
        scores, ids = torch.cat(parts, 2).topk(top_k)
        return ids, scores

    return search


def _flat(keys: Tensor) -> Search:
    faiss, pieces = _faiss(), _pieces(keys)

    def knn(queries: Tensor, some: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        count = min(top_k, some.shape[1])
        pairs = zip(queries.numpy(), some.float().numpy(), strict=True)
        found = [faiss.knn(*pair, count, faiss.METRIC_INNER_PRODUCT) for pair in pairs]
        scores, ids = (torch.from_numpy(np.stack(every)) for every in zip(*found, strict=True))
        return ids, scores

    def search(queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        found = [knn(queries, some, top_k) for some in pieces]
        if len(found) == 1:
            return found[0]
        scores, best = torch.cat([every for _, every in found], 2).topk(top_k)
        ids = [i * pieces[0].shape[1] + near for i, (near, _) in enumerate(found)]
        return torch.cat(ids, 2).gather(2, best), scores

    return search


def _lists(store: Any) -> Callable[[Tensor, int], Any]:
    faiss = _faiss()
    index, clusters = store._lists._index, store._lists._clusters
    centres, reach = clusters.centres, clusters.reach
    hopes = torch.cat([centres, reach.transpose(1, 2)], 2).numpy()  # of the best key of each list
    heads, candidates = np.arange(len(centres))[:, None, None], store._candidates

    def find(queries: Tensor, top_k: int) -> Any:
        count, lengths = candidates(top_k), queries.norm(dim=2, keepdim=True)
        pairs = zip(torch.cat([queries, lengths], 2).numpy(), hopes, strict=True)
        probed = [faiss.knn(*pair, index.nprobe, faiss.METRIC_INNER_PRODUCT) for pair in pairs]
        scores, lists = (np.stack(every) for every in zip(*probed, strict=True))
        scores -= lengths.numpy() * reach.numpy()[heads, 0, lists]
        lists += heads * centres.shape[1]
        flat = lists.reshape(-1, index.nprobe), scores.reshape(-1, index.nprobe)
        _, ids = index.search_preassigned(queries.flatten(0, 1).numpy(), count, *flat)
        return ids.reshape(*queries.shape[:2], count)

    return find


def _graphs(store: Any) -> Callable[[Tensor, int], Any]:
    threads = torch.get_num_threads()

    def find(queries: Tensor, count: int) -> Any:
        pairs = zip(store._graphs, _far(queries), strict=True)
        found = [graph._index.knn_query(far, count, num_threads=threads) for graph, far in pairs]
        return np.stack([ids.astype(np.int64) for ids, _ in found])

    return find


def _faiss_graphs(store: Any) -> Callable[[Tensor, int], Any]:
    faiss = _faiss()

    def find(queries: Tensor, count: int) -> Any:
        pairs = zip(store._graphs, _far(queries), strict=True)
        options = faiss.SearchParametersHNSW(efSearch=store.options.ef_search)
        return np.stack(
            [graph._ids[graph._index.search(far, count, params=options)[1]] for graph, far in pairs]
        )

    return find


def _faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())  # as stores do
    return faiss


def _far(queries: Tensor) -> Iterator[Any]:
    """Move queries out, as a graph of Euclidean distance needs them."""
    yield from (queries * (FAR / queries.norm(dim=2, keepdim=True))).numpy()


def _rescored(keys: Tensor, queries: Tensor, ids: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    heads = torch.arange(len(keys))[:, None, None]
    parts = []
    for some, near in zip(queries.split(RESCORED, 1), ids.split(RESCORED, 1), strict=True):
        scores = (keys[heads, near.clamp(min=0)].float() @ some[..., None]).squeeze(-1)
        scores, order = scores.masked_fill(near < 0, -torch.inf).topk(top_k)
        parts.append((near.gather(2, order), scores))
    found, scores = (torch.cat(every, 1) for every in zip(*parts, strict=True))
    return found, scores
