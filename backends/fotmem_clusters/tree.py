"""Clusters of keys, and groups of clusters: they grow as keys are added."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fotmem.stores import GrowingRows
from fotmem_clusters.measuring import Level, measured_shapes
from fotmem_clusters.members import Changes, Members
from fotmem_clusters.shapes import Shapes
from fotmem_clusters.steps import WORKSPACE, Steps, closeness
from fotmem_clusters.summaries import Summaries, summary

GROUP = 64
"""Most clusters of a group."""
FLAT = 1024
"""Clusters of a head up to which a new key is compared with all of them."""
NEAR = 3
"""Groups whose clusters a new key is compared with where there are more."""
PER_KIND = 64
"""Clusters of a head for each kind of shape."""
GROUPS_PER_KIND = 16
"""Groups of a head for each kind of shape."""
FIRST = 4000
"""Rows from which on shapes are measured."""
RENEW = 1.5
"""Shapes are measured anew when rows have grown by this factor."""


class Tree:
    """Clusters of rows, and groups of clusters.

    A new key goes to the cluster with the nearest mean; a cluster or group that is full is halved.

    Parameters
    ----------
    keys, values : GrowingRows
        What is clustered.
    capacity : int
        Most rows of a cluster.
    first : int
        The first row.
    steps : callable
        Takes a tree; returns the steps by which it grows.

    Attributes
    ----------
    clusters, groups : Members
        The rows of each cluster, the clusters of each group.
    summaries, outlines : Summaries
        Of clusters, and of groups.
    shapes : Shapes
        Of the kinds of clusters, then of groups.
    parents : Tensor
        Shape ``[H, room]``, int32: the group of each cluster.
    first, end : int
        The rows from the first to before the second are in clusters, but for those removed.
    measured : int
        Rows when shapes were measured.
    """

    def __init__(
        self,
        keys: GrowingRows,
        values: GrowingRows,
        capacity: int,
        first: int = 0,
        steps: Callable[["Tree"], Steps] = Steps,
    ) -> None:
        self.keys, self.values, self._steps_of = keys, values, steps
        heads, dim, device = keys.num_heads, keys.head_dim, keys.device
        self.clusters = Members(heads, capacity, device)
        self.groups = Members(heads, GROUP, device)
        self.groups.table[:, 0, 0], self.groups.sizes[:, 0] = 0, 1
        self.summaries, self.outlines = (
            Summaries(heads, dim, keys.dtype, device) for _ in range(2)
        )
        self.shapes = Shapes.round(heads, dim, keys.dtype, device)
        self.parents = torch.zeros(heads, 1, dtype=torch.int32, device=device)
        self.first = self.end = first
        self.measured = 0

    def copy(self, keys: GrowingRows, values: GrowingRows) -> "Tree":
        """Return the same clusters of other rows, which grow independently."""
        return copy.deepcopy(self, {id(self.keys): keys, id(self.values): values})

    @property
    def ram_bytes(self) -> int:
        """Bytes of its tensors."""
        parts = (self.clusters, self.groups, self.summaries, self.outlines, self)
        every = [*self.shapes, *(each for part in parts for each in vars(part).values())]
        return sum(each.nbytes for each in every if isinstance(each, Tensor))

    @property
    def _steps(self) -> Steps:
        return self._steps_of(self)

    @property
    def nodes(self) -> Summaries:
        """View the summaries of all clusters."""
        return self.summaries.first(int(self.clusters.counts.max()))

    def insert(self, first: int, stop: int) -> None:
        """Put the rows from `first` to before `stop` into clusters."""
        heads = torch.arange(self.keys.num_heads, device=self.keys.device)[:, None]
        rows = torch.arange(first, stop, device=self.keys.device).expand(len(heads), -1)
        vectors = self.keys.take(rows[:, None])[:, 0].float()
        if first == self.first:
            self.summaries.origin = self.outlines.origin = vectors.mean(1, keepdim=True)
        nodes = self.nearest(vectors)
        grown = self.summaries.count(nodes)
        wider = self.outlines.count(self.parents.gather(1, nodes))
        room = self.clusters.room
        owners = heads.expand_as(rows).flatten()
        changes = self.clusters.insert(
            owners, rows.flatten(), nodes.flatten(), self._steps.halve_rows
        )
        self.summaries.reserve(self.clusters.room)
        grown = _renumbered(grown, room, self.clusters.room)
        self._summarise(torch.cat([changes.nodes, grown]).unique())
        room = self.groups.room
        moved = self._divided(changes)
        wider = _renumbered(wider, room, self.groups.room)
        self._outline(torch.cat([moved, wider]).unique())
        self.end = stop
        if stop - self.first > max(FIRST, RENEW * self.measured):
            self._measure()

    def keep_only(self, shown: Callable[[Tensor], Tensor]) -> None:
        """Remove the rows that are not shown; `shown` takes rows of any shape."""
        table = self.clusters.table
        hidden = (table >= 0) & ~shown(table.clamp(min=0).long())
        nodes = hidden.flatten(0, 1).any(1).nonzero().squeeze(1)
        if len(nodes):
            self.clusters.remove(nodes, hidden.flatten(0, 1)[nodes])
            self._summarise(nodes)
            self._outline(self._groups_of(nodes).unique())
            self._measure()

    def nearest(self, vectors: Tensor) -> Tensor:
        """Find the nearest cluster of each vector ``[H, n, D]``, float32: ``[H, n]``."""
        vectors, count = vectors - self.summaries.origin, int(self.clusters.counts.max())
        if count <= FLAT:
            return _closeness_to(vectors, self.summaries.first(count)).argmax(2)
        groups = int(self.groups.counts.max())
        near = _closeness_to(vectors, self.outlines.first(groups)).topk(min(NEAR, groups), -1)
        return self._steps.nearest_in(vectors, near.indices)

    def _divided(self, changes: Changes) -> Tensor:
        """Put new clusters into the groups of their origins; return groups that were divided."""
        room = self.clusters.room
        self.parents = pad(self.parents, (0, room - self.parents.shape[1]))
        if not len(changes.new):
            return changes.new
        parents = self.parents.view(-1)
        parents[changes.new] = parents[changes.origins]
        heads, new = changes.new // room, changes.new % room
        halve = self._steps.halve_clusters
        moved = self.groups.insert(heads, new, parents[changes.new], halve).nodes
        self.outlines.reserve(self.groups.room)
        owners, held = self.groups.of(moved)
        there = held >= 0
        group = (moved % self.groups.room).int()[:, None].expand_as(held)
        parents[(owners * room + held)[there]] = group[there]
        return moved

    def _groups_of(self, clusters: Tensor) -> Tensor:
        heads = clusters // self.clusters.room
        return heads * self.groups.room + self.parents.view(-1)[clusters]

    def _summarise(self, nodes: Tensor) -> None:
        """Summarise clusters, numbered across heads."""
        for some in self._split(nodes, self.clusters.capacity):
            owners, held = self.clusters.of(some)
            self.summaries.put(some, self._steps.summary(owners[:, 0], held))

    def _outline(self, nodes: Tensor) -> None:
        """Summarise groups, numbered across heads."""
        known = self.summaries
        for some in self._split(nodes, GROUP):
            owners, held = self.groups.of(some)
            flat = owners * self.clusters.room + held.clamp(min=0)
            weights = known.sizes.view(-1)[flat].masked_fill(held < 0, 0)
            keys, values = (each.view(-1, each.shape[2])[flat].float() for each in known.means)
            inner = known.spreads.view(-1)[flat]
            self.outlines.put(some, summary(keys, values, weights, inner))

    def _measure(self) -> None:
        """Measure anew how keys lie around means."""
        levels = (
            Level(self.summaries, self.clusters, PER_KIND, None),
            Level(self.outlines, self.groups, GROUPS_PER_KIND, self.parents),
        )
        self.shapes = measured_shapes(self._steps, levels)
        self.measured = self.end - self.first

    def _split(self, nodes: Tensor, members: int) -> Sequence[Tensor]:
        return torch.split(nodes, max(1, WORKSPACE // (members * self.keys.head_dim)))


def _closeness_to(vectors: Tensor, nodes: Summaries) -> Tensor:
    """Return ``[H, n, C]``, largest for the node with the nearest mean."""
    return closeness(vectors, nodes.keys.float(), nodes.sizes == 0)


def _renumbered(nodes: Tensor, before: int, room: int) -> Tensor:
    """Number nodes across heads that have room for more now."""
    return nodes // before * room + nodes % before
