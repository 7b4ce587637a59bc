"""Chooses which clusters each query reads."""

from typing import NamedTuple

from torch import Tensor

LEAST = 2
"""Clusters that each query reads: of these it learns how good its estimates are."""


class Limits(NamedTuple):
    """How much a query reads."""

    error: float
    """It reads until the estimated relative error of its output is this, or less."""
    clusters: int
    """It reads no more clusters than that."""


class Pairs(NamedTuple):
    """Pairs of a query and an entry, in the order of heads and queries."""

    owners: Tensor
    """Shape ``[n]``, int64: queries, numbered across heads."""
    entries: Tensor
    """Shape ``[n]``, int64: entries of a head."""

    def of(self, table: Tensor) -> Tensor:
        """Look up these pairs in a table ``[H, q, E]``."""
        return table.view(-1)[self.places(table)]

    def places(self, table: Tensor) -> Tensor:
        """Return where in a flat table ``[H, q, E]`` these pairs are."""
        return self.owners * table.shape[2] + self.entries


def choose(risks: Tensor, limits: Limits, scales: Tensor) -> Pairs:
    """Choose clusters for each query: those where an estimate may err most.

    Parameters
    ----------
    risks : Tensor
        Shape ``[H, q, C]``: the squared error that the estimate of each cluster contributes, in
        units of the squared `scales`.
    limits : Limits
    scales : Tensor
        Shape ``[H, q, 1]``.
    """
    most = min(risks.shape[2], limits.clusters)
    largest, which = risks.topk(most, 2)
    left = risks.sum(2, keepdim=True) - largest.cumsum(2) + largest  # before each is read
    wanted = left.clamp_(min=0) >= (limits.error / scales).square()
    wanted[..., :LEAST] = True
    places = wanted.view(-1).nonzero().squeeze(1)
    return Pairs(places // most, which.view(-1)[places])
