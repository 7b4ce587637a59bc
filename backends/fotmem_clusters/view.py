"""What queries look at: all clusters, or those of the groups that matter most."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.stores import Bias
from fotmem_clusters.choosing import Limits
from fotmem_clusters.entries import Entries, gain, needle_risks
from fotmem_clusters.shapes import TINY
from fotmem_clusters.tree import GROUP, Tree

ALL = 96
"""Groups of a head up to which queries look at all clusters."""
OPEN = 28
"""Groups whose clusters queries look at where there are more."""
PER_QUERY = 2
"""Such groups for each query that asks at the same time."""


MANY = 0.6
"""Share of the groups from which on all clusters are looked at: that is as fast."""
LEAST_ERROR = 0.2
"""Groups are opened until the error of the others is this, or the target error."""


class View(NamedTuple):
    """What some queries look at."""

    entries: Entries
    """Clusters, then groups whose clusters they do not look at."""
    nodes: Tensor
    """Shape ``[H, C]``, int64: the clusters among these entries."""


class Viewer:
    """Shows a tree to queries.

    Parameters
    ----------
    tree : Tree
    bias : callable, optional
        Takes rows; what to add to inner products.
    scale : float
        Of the bias.

    Attributes
    ----------
    biases : Tensor or None
        Shape ``[end]``, float32: what is added to the scores of rows.
    log_sizes : Tensor
        Shape ``[H, C]``, float32: log of the keys of each cluster, each times the exp of its bias.
    """

    def __init__(self, tree: Tree, bias: Bias | None = None, scale: float = 1.0) -> None:
        self.tree, clusters = tree, tree.nodes
        self.biases, self.log_sizes = None, clusters.sizes.log()
        if bias is not None:
            rows = torch.arange(tree.end, device=clusters.sizes.device).clamp(min=tree.first)
            self.biases = bias(rows) * scale
            held = tree.clusters.table[:, : clusters.sizes.shape[1]].long()
            weights = self.biases[held.clamp(min=0)].masked_fill_(held < 0, -torch.inf)
            self.log_sizes = weights.logsumexp(-1)
        first = tree.summaries.centres.shape[1]
        self._kinds = range(first + tree.outlines.centres.shape[1])
        self._count = int(tree.groups.counts.max())
        self._first_group_kind = first
        self._all: View | None = None
        sizes = clusters.sizes
        self.mean_size = float(sizes.sum() / (sizes > 0).sum().clamp(min=1))
        """Rows of a cluster, on average."""
        squares = (clusters.squares * sizes).sum(1) / sizes.sum(1).clamp(min=1)
        self.value_norms = squares.sqrt()[:, None, None]
        """Shape ``[H, 1, 1]``, float32: the root of the mean squared norm of values."""

    @property
    def ram_bytes(self) -> int:
        """Bytes of what it keeps for the next calls, beside the tree."""
        kept = [self.log_sizes, *([] if self.biases is None else [self.biases])]
        views = [self._all.entries] if self._all is not None else []
        groups = self.__dict__.get("_groups")  # only if it was asked for
        for entries in [*views, *([] if groups is None else [groups])]:
            kept += [entries.bounds, entries.spreads]
        return sum(each.nbytes for each in kept)

    @property
    def seen(self) -> int:
        """Clusters of all heads."""
        return self.log_sizes.numel()

    @property
    def most(self) -> int:
        """Clusters of a head, at most."""
        return self.log_sizes.shape[1]

    def clusters(self, budget: int) -> int:
        """Return how many clusters have about as many rows in all."""
        return max(1, round(budget / max(1.0, self.mean_size)))

    def view(self, queries: Tensor, limits: Limits) -> View:
        """Return what queries ``[H, Q, D]``, scaled, look at."""
        least = OPEN + PER_QUERY * queries.shape[1]
        if self._groups is None or least >= self._count or limits.clusters >= self.most:
            return self._everything()
        largest, order = self._risks(self._groups, queries).sort(1, descending=True)
        left = largest.square_().flip(1).cumsum(1).flip(1)  # before each is opened
        wanted = int((left > max(limits.error, LEAST_ERROR) ** 2).sum(1).max())
        if wanted > MANY * self._count:
            return self._everything()
        chosen = order[:, : max(least, wanted)]
        nodes = self.tree.groups.table.gather(1, chosen[..., None].expand(-1, -1, GROUP))
        nodes = nodes.flatten(1).long()
        there, nodes = nodes >= 0, nodes.clamp(min=0)
        sizes = self.log_sizes.gather(1, nodes).masked_fill_(~there, -torch.inf)
        entries = Entries.of(self.tree.summaries.take(nodes, there), sizes, self._kinds)
        return View(entries.and_more(self._groups.without(chosen)), nodes)

    def _risks(self, groups: Entries, queries: Tensor) -> Tensor:
        """Return the error ``[H, G]`` that the estimate of each group may cause to any query."""
        deviations = groups.deviations(queries, self.tree.shapes)
        shares = (groups.scores(queries) + gain(deviations, groups.bounds)).softmax(2)
        rough = (shares.to(groups.values.dtype) @ groups.values).float()
        scales = self.value_norms / rough.norm(dim=2, keepdim=True).clamp(min=TINY)
        risks: Tensor = needle_risks(shares, deviations) * scales
        return risks.amax(1)

    def _everything(self) -> View:
        """Return the view of all clusters."""
        if self._all is None:
            clusters = self.tree.nodes
            numbers = torch.arange(clusters.sizes.shape[1], device=clusters.sizes.device)
            entries = Entries.of(clusters, self.log_sizes, self._kinds)
            self._all = View(entries, numbers.expand(len(clusters.sizes), -1))
        return self._all

    @cached_property
    def _groups(self) -> Entries | None:
        """All groups, if there are many."""
        if self._count <= ALL:
            return None
        outlines, kinds = (
            self.tree.outlines.first(self._count),
            self._kinds[self._first_group_kind :],
        )
        return Entries.of(outlines, self.group_log_sizes, kinds, GROUP)

    @cached_property
    def group_log_sizes(self) -> Tensor:
        """Shape ``[H, G]``: those of their clusters, summed."""
        parents = self.tree.parents[:, : self.log_sizes.shape[1]].long()
        top = self.log_sizes.amax(1, keepdim=True)
        sums = top.new_zeros(len(parents), self._count)
        sums.scatter_add_(1, parents, (self.log_sizes - top).exp())
        return sums.log() + top
