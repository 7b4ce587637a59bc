"""What approximate search loses: the share of the softmax that it still finds."""

import torch
from torch import Tensor

from fotmem import Hits, MemoryStore, best_hits, exact_search


def mass_of(scores: Tensor, best: Tensor, lse: Tensor, *, scale: float) -> float:
    """Return how much of the softmax lies on some hits, in units of that on the best ones.

    Parameters
    ----------
    scores, best : Tensor
        Shape ``[H, Q, K]``: inner products of the hits, and of the best ``K`` keys there are.
    lse : Tensor
        Shape ``[H, Q]``: log-sum-exp over all keys.
    scale : float
        Of inner products.
    """
    found, most = ((x * scale - lse[..., None]).exp().sum(-1).mean() for x in (scores, best))
    return float(found / most)


def best_scores(store: MemoryStore, queries: Tensor, top_k: int) -> Tensor:
    """Return the largest inner products ``[H, Q, K]``, from the keys as stored."""
    parts: list[Hits] = []
    step = 2**14
    for start in range(store.first_id, store.next_id, step):
        ids = torch.arange(start, min(start + step, store.next_id))
        keys = store.keys(ids.expand(store.num_heads, 1, -1))[:, 0]
        parts = [best_hits([*parts, exact_search(queries, keys, top_k, first_id=start)], top_k)]
    return parts[0].scores
