"""What a search returns, and what may be added to its scores."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Bias = Callable[[Tensor], Tensor]
"""Takes ids of keys, int64 of any shape, and returns what is added to their scores."""


class Hits(NamedTuple):
    """The ``top_k`` nearest remembered keys of each query, best first."""

    ids: Tensor
    """Shape ``[H, Q, K]``, int64: position in reading order, -1 where fewer exist."""
    scores: Tensor
    """Shape ``[H, Q, K]``, float32: inner products, unscaled (no ``1/sqrt(D)``); -inf for -1."""

    def first(self, most: int) -> "Hits":
        """Keep at most this number of hits per query."""
        if self.ids.shape[-1] <= most:
            return self
        return Hits(self.ids[..., :most], self.scores[..., :most])

    def padded(self, top_k: int) -> "Hits":
        """Fill up to ``top_k`` columns with id -1, score -inf."""
        missing = top_k - self.ids.shape[-1]
        if not missing:
            return self
        ids = pad(self.ids, (0, missing), value=-1)
        return Hits(ids, pad(self.scores, (0, missing), value=-torch.inf))


def no_hits(heads: int, queries: int, top_k: int, device: torch.device) -> Hits:
    """Return what a search in an empty store finds."""
    shape = heads, queries, top_k
    ids = torch.full(shape, -1, dtype=torch.long, device=device)
    return Hits(ids, torch.full(shape, -torch.inf, dtype=torch.float32, device=device))


def best_biased(hits: Hits, bias: Bias, top_k: int, *, first: int, device: torch.device) -> Hits:
    """Choose the best of hits by score plus bias; `first` takes the place of -1 in what it gets."""
    ids = hits.ids.to(device, torch.long)
    scores, best = (hits.scores.to(device) + bias(ids.clamp(min=first))).topk(top_k, dim=-1)
    return Hits(ids.gather(-1, best), scores)
