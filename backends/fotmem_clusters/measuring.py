"""Measures how keys lie around the means of clusters and of groups."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem_clusters.members import Members
from fotmem_clusters.shapes import MOST, Covariances, Shapes, kinds_of_nodes
from fotmem_clusters.steps import Steps
from fotmem_clusters.summaries import Summaries

SAMPLES = (1024, 256)
"""Clusters of a head on which it is measured: for clusters, and for groups."""


class Level(NamedTuple):
    """Nodes of a tree."""

    known: Summaries
    members: Members
    per_kind: int
    """Nodes of a head for each kind."""
    parents: Tensor | None
    """Shape ``[H, room]``, int32: the node of each cluster; None: the clusters themselves."""

    def divide(self) -> int:
        """Divide the nodes into kinds anew; return how many there are."""
        counts = self.members.counts
        kinds = min(MOST, max(1, int(counts.min()) // self.per_kind))
        self.known.centres, nearest = kinds_of_nodes(self.known.keys.float(), counts, kinds)
        self.known.kinds = nearest.to(torch.uint8)
        return kinds


def measured_shapes(steps: Steps, levels: tuple[Level, Level]) -> Shapes:
    """Divide clusters and groups into kinds, and measure the shape of each on some clusters."""
    keys, counts = steps.tree.keys, levels[0].members.counts
    kinds = [level.divide() for level in levels]
    sums = Covariances(len(counts), sum(kinds), keys.head_dim, keys.device)
    for level, most, first in zip(levels, SAMPLES, (0, kinds[0]), strict=True):
        for head, count in enumerate(counts.tolist()):
            size = min(most, count)
            some = torch.arange(size, device=keys.device) * count // size
            sums.add(head, first, _rows_by_kind(steps, level, head, some))
    return sums.shapes(keys.dtype)


def _rows_by_kind(steps: Steps, level: Level, head: int, clusters: Tensor) -> Sequence[Tensor]:
    """Return the rows ``[n, 2 * D]`` of clusters of a head, as seen from means of nodes."""
    known, held = level.known, steps.tree.clusters.table[head, clusters].long()
    nodes = clusters if level.parents is None else level.parents[head, clusters].long()
    kinds = known.kinds[head, nodes].long()
    order = kinds.argsort(stable=True)
    held, nodes, kinds = held[order], nodes[order], kinds[order]
    there = held >= 0
    places = torch.arange(len(nodes), device=nodes.device)[:, None].expand_as(held)[there]
    keys, values = (each[head, nodes].float() for each in known.means)
    means = torch.cat([keys + known.origin[head], values], 1)
    offsets = steps.offsets(head, held[there], places, means)
    counts: list[int] = kinds[places].bincount(minlength=known.centres.shape[1]).tolist()
    return torch.split(offsets, counts)
