"""Chooses which clusters each query reads."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEAST = 2
"""Clusters that each query reads: of these it learns how good its estimates are."""


PARTITIONED = 8
"""Fewer numbers than this are found by `torch.topk`."""


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


def choose(risks: Tensor, needles: Tensor, limits: Limits, scales: Tensor) -> Pairs:
    """Choose clusters for each query: those where an estimate may err most.

    Parameters
    ----------
    risks : Tensor
        Shape ``[H, q, C]``: the error that the estimate of each cluster contributes, in units of
        `scales`.
    needles : Tensor
        The same, if a cluster may have a key that the query looks for: this decides how many are
        read, not which.
    limits : Limits
    scales : Tensor
        Shape ``[H, q, 1]``.
    """
    most = min(risks.shape[2], limits.clusters)
    which = _largest(risks, most)
    needles = needles.square_()
    these = needles.gather(2, which)
    left = needles.sum(2, keepdim=True) - these.cumsum(2) + these  # before each is read
    wanted = left.clamp_(min=0) >= (limits.error / scales).square()
    wanted[..., :LEAST] = True
    places = wanted.view(-1).nonzero().squeeze(1)
    return Pairs(places // most, which.view(-1)[places])


def _largest(numbers: Tensor, count: int) -> Tensor:
    """Return the places of the largest numbers along the last dimension, in order."""
    if numbers.device.type != "cpu" or count < PARTITIONED or count == numbers.shape[-1]:
        return numbers.topk(count).indices
    # NumPy does it several times faster.
    parts = np.argpartition(numbers.numpy(), -count, axis=-1)[..., -count:]
    places = torch.from_numpy(parts)
    order = numbers.gather(-1, places).argsort(-1, descending=True)
    return places.gather(-1, order)
