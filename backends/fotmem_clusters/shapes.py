"""How keys lie around the means of nodes, and how values follow them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-30
MOST = 16
"""Most kinds of clusters of a head, and of groups."""
STEPS = 8
"""Steps of k-means."""
SAMPLE = 1024
"""Nodes of a head on which k-means works."""
SHARED = 0.05
"""Share of the mean covariance of all kinds that counts for each: of some there are few samples."""


class Shapes(NamedTuple):
    """The shapes of a few kinds of nodes, which are those that lie near one another.

    All are per unit of spread: the shape of a node is that of its kind, times its spread.
    """

    axes: Tensor
    """Shape ``[H, D, D]``, float32: columns are the principal axes of all kinds together."""
    variances: Tensor
    """Shape ``[H, M, D]``, float32: of keys along these axes, by kind."""
    slopes: Tensor
    """Shape ``[H, M * D, D]``, in the store's dtype: the covariance of keys and values, by kind."""

    @classmethod
    def round(cls, heads: int, dim: int, dtype: torch.dtype, device: torch.device) -> "Shapes":
        """Return a kind of clusters and one of groups that are alike in all directions."""
        axes = torch.eye(dim, device=device).expand(heads, -1, -1).contiguous()
        slopes = torch.zeros(heads, 2 * dim, dim, dtype=dtype, device=device)
        return cls(axes, torch.full_like(axes[:, :2], 1 / dim), slopes)

    def spread_along(self, queries: Tensor) -> Tensor:
        """Return the variances ``[H, Q, M]`` of inner products with queries ``[H, Q, D]``."""
        return (queries @ self.axes).square_() @ self.variances.transpose(1, 2)

    def shift(self, queries: Tensor, weights: Tensor) -> Tensor:
        """Return how values ``[H, Q, D]`` shift towards what queries prefer.

        `weights` are ``[H, Q, M]``: the summed weight times spread of the nodes of a kind.
        """
        both = (weights[..., None] * queries[:, :, None]).flatten(2)
        return both.to(self.slopes.dtype) @ self.slopes


class Covariances:
    """Sums over some rows, of which shapes are made.

    Parameters
    ----------
    heads, kinds, dim : int
    device : torch.device

    Attributes
    ----------
    products : Tensor
        Shape ``[H, M, D, 2 * D]``, float32: of keys with keys, then of keys with values.
    """

    def __init__(self, heads: int, kinds: int, dim: int, device: torch.device) -> None:
        shape = heads, kinds, dim, 2 * dim
        self.products = torch.zeros(shape, dtype=torch.float32, device=device)

    def add(self, head: int, first: int, kinds: Sequence[Tensor]) -> None:
        """Count rows ``[n, 2 * D]``, keys and values beside each other, of kinds from `first` on.

        Both are as seen from the means of their nodes.
        """
        sums = self.products[head, first:]
        for total, rows in zip(sums, kinds, strict=False):
            total.addmm_(rows[:, : total.shape[0]].T, rows)

    def shapes(self, dtype: torch.dtype) -> Shapes:
        """Return the shapes of what was counted."""
        shared = SHARED * self.products.mean(1, keepdim=True)
        keys, values = (self.products + shared).chunk(2, 3)
        totals = keys.diagonal(dim1=2, dim2=3).sum(2).clamp(min=TINY)[..., None]  # [H, M, 1]
        axes = torch.linalg.eigh(keys.sum(1)).eigenvectors
        turned = axes.transpose(1, 2)[:, None] @ keys @ axes[:, None]
        variances = turned.diagonal(dim1=2, dim2=3).clamp(min=0) / totals
        slopes = values / totals[..., None]
        return Shapes(axes, variances, slopes.flatten(1, 2).to(dtype))


def kinds_of_nodes(keys: Tensor, counts: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Divide nodes into kinds, by k-means.

    Parameters
    ----------
    keys : Tensor
        Shape ``[H, C, D]``, float32: mean keys; the first `counts` ``[H]`` of a head are nodes.
    counts : Tensor
    kinds : int
        No more than nodes of a head.

    Returns
    -------
    centres : Tensor
        Shape ``[H, kinds, D]``.
    nearest : Tensor
        Shape ``[H, C]``, int64.
    """
    numbers = torch.arange(kinds, device=keys.device)
    most = min(SAMPLE, int(counts.min()))
    some = _take(keys, torch.arange(most, device=keys.device) * counts[:, None] // most)
    centres = _take(some, (numbers * most // kinds).expand(len(keys), -1))
    for _ in range(STEPS):
        weights = (nearest_kind(centres, some)[:, None] == numbers[:, None]).float()  # [H, M, n]
        totals = weights.sum(2, keepdim=True)
        centres = torch.where(totals > 0, weights @ some / totals.clamp(min=1), centres)
    return centres, nearest_kind(centres, keys)


def _take(keys: Tensor, nodes: Tensor) -> Tensor:
    return keys.gather(1, nodes[..., None].expand(-1, -1, keys.shape[2]))


def nearest_kind(centres: Tensor, keys: Tensor) -> Tensor:
    """Return ``[b, C]``, int64: the nearest of centres ``[b, M, D]`` to keys ``[b, C, D]``."""
    offsets = centres.square().sum(2)[:, None] / -2
    return torch.baddbmm(offsets, keys, centres.transpose(1, 2)).argmax(2)
