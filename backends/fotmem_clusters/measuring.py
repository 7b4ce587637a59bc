"""Measures how keys lie around the means of clusters and of groups."""

from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.stores import GrowingRows
from fotmem_clusters.members import Members
from fotmem_clusters.shapes import MOST, Covariances, Sample, Shapes, kinds_of_nodes
from fotmem_clusters.summaries import Summaries

SAMPLES = (1024, 256)
"""Clusters of a head on which it is measured: for clusters, and for groups."""
BLOCK = 128
"""Clusters whose rows are read at a time."""


class Level(NamedTuple):
    """Nodes of a tree."""

    known: Summaries
    members: Members
    per_kind: int
    """Nodes of a head for each kind."""
    parents: Tensor | None
    """Shape ``[H, room]``, int64: the node of each cluster; None: the clusters themselves."""

    def nodes_of(self, clusters: Tensor, room: int) -> Tensor:
        """Return the nodes of clusters, both numbered across heads."""
        if self.parents is None:
            return clusters
        return clusters // room * self.members.room + self.parents.view(-1)[clusters]

    def divide(self) -> int:
        """Divide the nodes into kinds anew; return how many there are."""
        counts = self.members.counts
        kinds = min(MOST, max(1, int(counts.min()) // self.per_kind))
        self.known.centres, nearest = kinds_of_nodes(self.known.keys.float(), counts, kinds)
        self.known.kinds = nearest.to(torch.uint8)
        return kinds


def measured_shapes(keys: GrowingRows, values: GrowingRows, levels: tuple[Level, Level]) -> Shapes:
    """Divide clusters and groups into kinds, and measure the shape of each on some clusters."""
    clusters = levels[0].members
    kinds = [level.divide() for level in levels]
    sums = Covariances(len(clusters.counts), sum(kinds), keys.head_dim, keys.device)
    for level, most, first in zip(levels, SAMPLES, (0, kinds[0]), strict=True):
        for some in _sample(clusters, most).split(BLOCK):
            owners, held = clusters.of(some)
            nodes, there = level.nodes_of(some, clusters.room), (held >= 0)[..., None]
            heads, known, offsets = owners[:, 0], level.known, []
            places = known.origin[heads], torch.zeros_like(known.origin[heads])
            for source, means, origin in zip((keys, values), known.means, places, strict=True):
                mean = means.flatten(0, 1)[nodes][:, None] + origin
                rows = source.take_of_heads(owners, held.clamp(min=0))
                offsets.append((rows - mean) * there)
            kind = known.kinds.view(-1)[nodes].long() + first
            sums.add(Sample(heads * sum(kinds) + kind, *offsets))
    return sums.shapes(keys.dtype)


def _sample(clusters: Members, most: int) -> Tensor:
    """Return some clusters of each head, numbered across heads."""
    counts = clusters.counts[:, None]
    count = min(most, int(counts.max()))
    places = torch.arange(count, device=counts.device)
    return clusters.numbered(places * counts // count).flatten()
