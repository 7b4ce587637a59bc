"""What a search returns, and what may be added to its scores."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Bias = Callable[[Tensor], Tensor]
"""Takes ids of keys, int64 of any shape, and returns what is added to their scores."""


class Hits(NamedTuple):
    """The ``top_k`` nearest remembered keys of each query, best first."""

    ids: Tensor
    """Shape ``[H, Q, K]``, int64: position in reading order, -1 where fewer exist."""
    scores: Tensor
    """Shape ``[H, Q, K]``, float32: inner products, unscaled (no ``1/sqrt(D)``); -inf for -1."""

    def first(self, most: int) -> "Hits":
        """Keep so many of each query, at most."""
        if self.ids.shape[-1] <= most:
            return self
        return Hits(self.ids[..., :most], self.scores[..., :most])
