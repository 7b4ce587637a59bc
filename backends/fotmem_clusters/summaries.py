"""What is known of the keys and values of nodes without reading them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fotmem_clusters.shapes import nearest_kind

FRESH = 1.25
"""A node is summarised anew when the number of its keys passes a power of that."""


PER_NODE = ("spreads", "squares", "sizes", "kinds")


class Summary(NamedTuple):
    """What was found of some nodes."""

    keys: Tensor
    """Shape ``[c, D]``, float32: means, from the origin."""
    values: Tensor
    """Shape ``[c, D]``, float32."""
    spreads: Tensor
    """Shape ``[c]``, float32."""
    squares: Tensor
    """Shape ``[c]``, float32."""
    sizes: Tensor
    """Shape ``[c]``, float32."""


class Summaries:
    """Mean keys and values, and how widely keys are spread, by node.

    Attributes
    ----------
    origin : Tensor
        Shape ``[H, 1, D]``, float32: mean keys are counted from here, near all keys. That way they
        are precise also in bfloat16.
    keys, values : Tensor
        Shape ``[H, room, D]``, in the store's dtype: means.
    spreads : Tensor
        Shape ``[H, room]``, float32: mean squared distance of a key from the mean key.
    squares : Tensor
        Shape ``[H, room]``, float32: mean squared norm of values.
    sizes : Tensor
        Shape ``[H, room]``, float32: keys; some may be newer than means and spread.
    centres : Tensor
        Shape ``[H, M, D]``, float32: a node is of the kind with the nearest centre.
    kinds : Tensor
        Shape ``[H, room]``, uint8.
    """

    def __init__(self, heads: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.origin = torch.zeros(heads, 1, dim, dtype=torch.float32, device=device)
        self.keys = torch.zeros(heads, 1, dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.spreads = torch.zeros(heads, 1, dtype=torch.float32, device=device)
        self.squares, self.sizes = torch.zeros_like(self.spreads), torch.zeros_like(self.spreads)
        self.kinds = torch.zeros(heads, 1, dtype=torch.uint8, device=device)
        self.centres = torch.zeros_like(self.origin)

    def reserve(self, room: int) -> None:
        """Make room for as many nodes of each head."""
        more = room - self.sizes.shape[1]
        if more > 0:
            self.keys, self.values = (pad(each, (0, 0, 0, more)) for each in self.means)
            for name in PER_NODE:
                setattr(self, name, pad(getattr(self, name), (0, more)))

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean keys, from the origin, and mean values."""
        return self.keys, self.values

    def first(self, count: int) -> "Summaries":
        """View those of the first nodes of each head."""
        some = object.__new__(Summaries)
        some.origin, some.centres = self.origin, self.centres
        some.keys, some.values = (each[:, :count] for each in self.means)
        for name in PER_NODE:
            setattr(some, name, getattr(self, name)[:, :count])
        return some

    def take(self, nodes: Tensor, there: Tensor) -> "Summaries":
        """Take those of nodes ``[H, n]``; where there is none, it has no keys."""
        heads = torch.arange(len(nodes), device=nodes.device)[:, None]
        flat = (nodes + heads * self.sizes.shape[1]).flatten()
        shape = (*nodes.shape, -1)
        some = object.__new__(Summaries)
        some.origin, some.centres = self.origin, self.centres
        some.keys, some.values = (
            each.flatten(0, 1).index_select(0, flat).view(shape) for each in self.means
        )
        some.spreads, some.kinds = self.spreads.gather(1, nodes), self.kinds.gather(1, nodes)
        some.sizes = self.sizes.gather(1, nodes) * there
        return some

    def count(self, nodes: Tensor) -> Tensor:
        """Count more rows, of nodes ``[H, n]``.

        Returns the nodes ``[c]``, numbered across all heads, that are to be summarised anew.
        """
        heads, room = self.sizes.shape
        flat = (nodes + torch.arange(heads, device=nodes.device)[:, None] * room).flatten()
        sizes = self.sizes.view(-1)
        before = _powers(sizes[flat])
        sizes.index_add_(0, flat, torch.ones_like(flat, dtype=sizes.dtype))
        return flat[_powers(sizes[flat]) > before]

    def put(self, nodes: Tensor, found: Summary) -> None:
        """Take over what was found of nodes ``[c]``, numbered across all heads."""
        for means, mean in zip(self.means, found[:2], strict=True):
            means.view(-1, means.shape[2])[nodes] = mean.to(means.dtype)
        self.spreads.view(-1)[nodes] = found.spreads
        self.squares.view(-1)[nodes] = found.squares
        self.sizes.view(-1)[nodes] = found.sizes
        centres = self.centres[nodes // self.sizes.shape[1]]
        kinds = nearest_kind(centres, found.keys[:, None]).squeeze(1)
        self.kinds.view(-1)[nodes] = kinds.to(torch.uint8)


def _powers(sizes: Tensor) -> Tensor:
    """Return how many powers of `FRESH` numbers have passed."""
    return (sizes.log() / math.log(FRESH)).floor()


def summary(keys: Tensor, values: Tensor, weights: Tensor, inner: Tensor | None = None) -> Summary:
    """Summarise nodes ``[c]``.

    Parameters
    ----------
    keys, values : Tensor
        Shape ``[c, S, D]``, float32: of members; keys count from the origin.
    weights : Tensor
        Shape ``[c, S]``, float32: keys that each member counts; 0: none.
    inner : Tensor, optional
        Shape ``[c, S]``, float32: spread within members; default: none.
    """
    sizes = weights.sum(1)
    shares = (weights / sizes[:, None].clamp(min=1))[:, None]
    key, value = (shares @ members for members in (keys, values))  # [c, 1, D]
    spreads = (keys - key).square().sum(2)
    spreads = spreads if inner is None else spreads + inner
    spread, square = ((shares.squeeze(1) * e).sum(1) for e in (spreads, values.square().sum(2)))
    return Summary(key.squeeze(1), value.squeeze(1), spread, square, sizes)
