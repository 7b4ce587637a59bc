"""What is known of the keys and values of nodes without reading them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

TINY = 1e-30
FEW = 0.65
"""Deviations at which few numbers differ from many, in units of ``sqrt(2 log n)``: fitted to 8 to
64 numbers."""
FRESH = 1.125
"""A node is summarised anew when its keys have grown by this factor."""


class Summaries:
    """Mean keys and values, and how widely keys are spread, by node.

    Attributes
    ----------
    keys, values : Tensor
        Shape ``[H, room, D]``, in the store's dtype: means.
    spreads : Tensor
        Shape ``[H, room]``, float32: mean squared distance of a key from the mean key.
    sizes, known : Tensor
        Shape ``[H, room]``, float32: keys, and those when means and spread were computed.
    """

    def __init__(self, heads: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(heads, 1, dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.spreads = torch.zeros(heads, 1, dtype=torch.float32, device=device)
        self.sizes, self.known = torch.zeros_like(self.spreads), torch.zeros_like(self.spreads)
        self.shape = Shape.none(heads, dim, device)

    def reserve(self, room: int) -> None:
        """Make room for as many nodes of each head."""
        more = room - self.sizes.shape[1]
        if more > 0:
            self.keys, self.values = (pad(each, (0, 0, 0, more)) for each in self.means)
            self.spreads, self.sizes, self.known = (
                pad(each, (0, more)) for each in (self.spreads, self.sizes, self.known)
            )

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean keys and mean values."""
        return self.keys, self.values

    def first(self, count: int) -> "Summaries":
        """View those of the first nodes of each head."""
        some = object.__new__(Summaries)
        some.keys, some.values = (each[:, :count] for each in self.means)
        some.spreads, some.sizes = self.spreads[:, :count], self.sizes[:, :count]
        some.shape = self.shape
        return some

    def nprobe(self, budget: int) -> int:
        """Return how many nodes have about as many rows in all."""
        mean = float(self.sizes.sum() / (self.sizes > 0).sum().clamp(min=1))
        return min(self.sizes.shape[1], max(1, round(budget / max(1.0, mean))))

    def count(self, nodes: Tensor) -> Tensor:
        """Count more rows, of nodes ``[H, n]``.

        Returns the nodes ``[c]``, numbered across all heads, that are to be summarised anew.
        """
        heads, room = self.sizes.shape
        flat = (nodes + torch.arange(heads, device=nodes.device)[:, None] * room).flatten()
        sizes = self.sizes.view(-1)
        sizes.index_add_(0, flat, torch.ones_like(flat, dtype=sizes.dtype))
        grown = sizes[flat] > FRESH * self.known.view(-1)[flat]
        return flat[grown]

    def set(
        self, nodes: Tensor, keys: Tensor, values: Tensor, weights: Tensor, inner: Tensor
    ) -> None:
        """Summarise nodes ``[c]`` anew, numbered across all heads.

        Parameters
        ----------
        nodes : Tensor
        keys, values : Tensor
            Shape ``[c, S, D]``, float32: of members.
        weights : Tensor
            Shape ``[c, S]``, float32: keys that each member counts; 0: none.
        inner : Tensor
            Shape ``[c, S]``, float32: spread within members.
        """
        sizes = weights.sum(1)
        shares = (weights / sizes[:, None].clamp(min=1))[:, None]
        found = [shares @ members for members in (keys, values)]  # [c, 1, D]
        for means, mean in zip(self.means, found, strict=True):
            means.view(-1, means.shape[2])[nodes] = mean.squeeze(1).to(means.dtype)
        inner = inner + (keys - found[0]).square().sum(2)
        self.spreads.view(-1)[nodes] = (shares.squeeze(1) * inner).sum(1)
        self.sizes.view(-1)[nodes] = self.known.view(-1)[nodes] = sizes


class Shape(NamedTuple):
    """How keys lie around the mean of their node, and how values follow them: alike for all nodes.

    Both are sums over keys, in units of `total`.
    """

    keys: Tensor
    """Shape ``[H, D, D]``, float32: covariance of keys."""
    values: Tensor
    """Shape ``[H, D, D]``, float32: covariance of values (rows) and keys (columns)."""
    total: Tensor
    """Shape ``[H, 1, 1]``, float32: the summed variance of keys."""

    @classmethod
    def none(cls, heads: int, dim: int, device: torch.device) -> "Shape":
        """Return that of no keys."""
        zero = torch.zeros(heads, dim, dim, dtype=torch.float32, device=device)
        return cls(zero, zero, zero[:, :1, :1])

    def grown(self, heads: Tensor, keys: Tensor, values: Tensor) -> "Shape":
        """Count members of nodes ``[c]`` of these heads: offsets ``[c, S, D]`` from the means."""
        around = self.keys.index_add(0, heads, keys.transpose(1, 2) @ keys)
        beside = self.values.index_add(0, heads, values.transpose(1, 2) @ keys)
        return Shape(around, beside, around.diagonal(dim1=1, dim2=2).sum(1)[:, None, None])

    def spread_along(self, queries: Tensor) -> Tensor:
        """Return the variance of inner products with queries ``[H, Q, D]``, per unit of spread."""
        return ((queries @ (self.keys / self.total.clamp(min=TINY))) * queries).sum(-1)

    def shift(self, queries: Tensor) -> Tensor:
        """Return how values shift towards what queries prefer, per unit of spread."""
        return queries @ (self.values / self.total.clamp(min=TINY)).transpose(1, 2)


def gain(variance: Tensor, sizes: Tensor) -> Tensor:
    """Return by how much the log of a mean of exp exceeds the mean, of that many normal numbers.

    Half the variance, as long as among so few numbers there are some of those that dominate the
    mean of many; beyond, it grows linearly, with the largest number (the random energy model,
    Derrida 1981).
    """
    bound = FEW * (2 * sizes.clamp(min=1).log()).sqrt()
    deviation = variance.sqrt()
    return torch.where(deviation < bound, variance / 2, (deviation - bound / 2) * bound)
