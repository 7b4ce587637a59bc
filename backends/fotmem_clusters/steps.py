"""What adding to a tree consists of: finding near clusters, halving sets, summarising clusters."""

from typing import Protocol

import torch
from torch import Tensor

from fotmem.stores import GrowingRows
from fotmem_clusters.halving import halved
from fotmem_clusters.members import Members
from fotmem_clusters.summaries import Summaries, Summary, summary
from fotmem_clusters.visits import visits

WORKSPACE = 2**21
"""Elements of the largest temporary."""


class Grown(Protocol):
    """What steps need of a `Tree`."""

    keys: GrowingRows
    values: GrowingRows
    clusters: Members
    groups: Members
    summaries: Summaries


class Steps:
    """The steps of adding to a tree, by torch on any device.

    Parameters
    ----------
    tree : Tree
    """

    def __init__(self, tree: Grown) -> None:
        self.tree = tree

    def nearest_in(self, vectors: Tensor, groups: Tensor) -> Tensor:
        """Find the nearest cluster ``[H, n]`` of each vector in its groups ``[H, n, P]``.

        Vectors are ``[H, n, D]``, float32, from the origin.
        """
        members = self.tree.groups
        dim, wide, capacity = vectors.shape[2], groups.shape[2], members.capacity
        best = vectors.new_full((groups.numel(),), -torch.inf)
        which = torch.zeros_like(best, dtype=torch.long)
        flat, cost = vectors.flatten(0, 1), (capacity * dim, dim + capacity)
        for visit in visits(members.numbered(groups), *cost, WORKSPACE):
            owners, held = members.of(visit.nodes)
            means = self._means(owners, held.clamp(min=0))
            top = closeness(flat[visit.pairs // wide], means, held < 0).max(-1)
            pairs = visit.pairs[visit.there]
            best[pairs] = top.values[visit.there]
            which[pairs] = held.gather(1, top.indices)[visit.there]
        chosen = best.view(groups.shape).argmax(2, keepdim=True)
        return which.view(groups.shape).gather(2, chosen).squeeze(2)

    def halve_rows(self, heads: Tensor, held: Tensor) -> Tensor:
        """Halve sets of rows ``[c, S]`` of heads ``[c]``; return which are in the second half."""
        owners = heads[:, None].expand_as(held)
        return halved(look_up(self.tree.keys, owners, held.clamp(min=0)), held >= 0)

    def halve_clusters(self, heads: Tensor, held: Tensor) -> Tensor:
        """Halve sets of clusters likewise."""
        return halved(self._means(heads[:, None], held.clamp(min=0)), held >= 0)

    def summary(self, heads: Tensor, held: Tensor) -> Summary:
        """Summarise sets of rows ``[c, S]`` of heads ``[c]``."""
        owners, rows = heads[:, None].expand_as(held), held.clamp(min=0)
        keys, values = (look_up(each, owners, rows) for each in (self.tree.keys, self.tree.values))
        return summary(keys - self.tree.summaries.origin[heads], values, (held >= 0).float())

    def offsets(self, head: int, rows: Tensor, nodes: Tensor, means: Tensor) -> Tensor:
        """Return rows ``[n, 2 * D]`` of a head, float32: keys and values, beside each other.

        They are as seen from means ``[c, 2 * D]``, each from that of its node ``[n]``.
        """
        heads = torch.full_like(rows, head)
        both = [look_up(source, heads, rows) for source in (self.tree.keys, self.tree.values)]
        return torch.cat(both, 1).sub_(means[nodes])

    def _means(self, heads: Tensor, clusters: Tensor) -> Tensor:
        means = self.tree.summaries.keys
        return means.view(-1, means.shape[2])[heads * means.shape[1] + clusters].float()


def look_up(source: GrowingRows, heads: Tensor, rows: Tensor) -> Tensor:
    """Look up rows of any shape, each of its head: float32."""
    return source.take_of_heads(heads, rows).float()


def closeness(vectors: Tensor, means: Tensor, hidden: Tensor) -> Tensor:
    """Return ``[c, n, m]`` of ``[c, n, D]``, largest for the nearest of means ``[c, m, D]``."""
    offsets = (means.square().sum(-1) / -2).masked_fill(hidden, -torch.inf)
    return torch.baddbmm(offsets[:, None], vectors, means.transpose(1, 2))
