"""Measures how keys lie around the means of clusters and of groups."""

from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.stores import GrowingRows
from fotmem_clusters.members import Members
from fotmem_clusters.shapes import MOST, Covariances, Sample, Shapes, kinds_of_nodes
from fotmem_clusters.summaries import Summaries

SAMPLE = 256
"""Clusters of a head on which it is measured."""
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
    counts, heads = clusters.counts[:, None], len(clusters.counts)
    places = torch.arange(min(SAMPLE, int(counts.max())), device=counts.device)
    chosen = clusters.numbered(places * counts // len(places)).flatten()
    kinds = [level.divide() for level in levels]
    sums = Covariances(heads, sum(kinds), keys.head_dim, counts.device)
    for some in chosen.split(BLOCK):
        owners, held = clusters.of(some)
        there, rows = (held >= 0)[..., None], held.clamp(min=0)
        found = [source.take_of_heads(owners, rows).float() for source in (keys, values)]
        for level, first in zip(levels, (0, kinds[0]), strict=True):
            known, nodes = level.known, level.nodes_of(some, clusters.room)
            mean_keys, mean_values = (
                means.flatten(0, 1)[nodes][:, None].float() for means in known.means
            )
            offsets = [
                (found[0] - mean_keys - known.origin[owners[:, 0]]) * there,
                (found[1] - mean_values) * there,
            ]
            kind = known.kinds.view(-1)[nodes].long() + first
            sums.add(Sample(owners[:, 0] * sum(kinds) + kind, *offsets))
    return sums.shapes(keys.dtype)
