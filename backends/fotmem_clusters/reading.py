"""Reads the keys and values of chosen clusters, each cluster once for all queries of a call."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem_clusters.steps import WORKSPACE, look_up
from fotmem_clusters.tree import Tree
from fotmem_clusters.visits import Visit, visits

FEW = 1024
"""Pairs of a query and a cluster that are read one by one."""
BLOCK = 256
"""Such pairs at a time."""
LOWEST = torch.finfo(torch.float32).min


class Reader:
    """Reads clusters of a tree.

    Parameters
    ----------
    tree : Tree
    biases : Tensor, optional
        Shape ``[end]``, float32: what is added to the scores of rows.
    """

    def __init__(self, tree: Tree, biases: Tensor | None = None) -> None:
        self._tree, self._biases = tree, biases

    def attend(self, asking: Tensor, nodes: Tensor) -> PartialAttention:
        """Attend with queries ``[n, D]`` each to a cluster ``[n]``, numbered across heads.

        Returns
        -------
        PartialAttention
            ``out [n, D]`` and ``lse [n]``.
        """
        outs, lses = torch.empty_like(asking), torch.empty_like(asking[:, 0])
        if len(nodes) <= FEW:  # they seldom share a cluster
            for first in range(0, len(nodes), BLOCK):
                some = slice(first, first + BLOCK)
                found = self._attend(asking[some, None], nodes[some])
                outs[some], lses[some] = (each.squeeze(1) for each in found)
            return PartialAttention(outs, lses)
        for visit in self._visits(nodes, 2 * asking.shape[1], 2 * asking.shape[1]):
            found = self._attend(asking[visit.pairs], visit.nodes)
            pairs = visit.pairs[visit.there]
            outs[pairs], lses[pairs] = (each[visit.there] for each in found)
        return PartialAttention(outs, lses)

    def _attend(self, asking: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Attend with queries ``[c, most, D]`` to nodes ``[c]``, numbered across all heads."""
        owners, held = self._tree.clusters.of(nodes)
        scores = self._scores(asking, owners, held)
        lse = scores.logsumexp(-1, keepdim=True)
        weights = scores.sub_(lse.clamp(min=LOWEST)).exp_()  # a head may have fewer clusters
        return weights @ look_up(self._tree.values, owners, held.clamp(min=0)), lse.squeeze(-1)

    def best(self, queries: Tensor, chosen: Tensor, top_k: int) -> Tensor:
        """Return the best rows ``[H, Q, at most top_k]`` in clusters ``[H, Q, P]``; -1: none."""
        flat, dim, wide = queries.flatten(0, 1), queries.shape[2], chosen.shape[2]
        clusters = self._tree.clusters
        found = flat.new_full((chosen.numel(), clusters.capacity), -torch.inf)
        for visit in self._visits(clusters.numbered(chosen), dim, dim):
            scores = self._scores(flat[visit.pairs // wide], *clusters.of(visit.nodes))
            found[visit.pairs[visit.there]] = scores[visit.there]
        scores, places = found.view(*chosen.shape[:2], -1).topk(
            min(top_k, wide * clusters.capacity), -1, sorted=False
        )
        nodes = clusters.numbered(chosen.gather(2, places // clusters.capacity))
        rows = clusters.table.flatten()[nodes * clusters.capacity + places % clusters.capacity]
        return rows.long().where(scores > -torch.inf, -1)

    def _visits(self, nodes: Tensor, per_row: int, per_pair: int) -> Iterator[Visit]:
        """Group pairs of a query and a cluster, numbered across heads."""
        capacity = self._tree.clusters.capacity
        return visits(nodes, capacity * per_row, capacity + per_pair, WORKSPACE)

    def _scores(self, asking: Tensor, owners: Tensor, held: Tensor) -> Tensor:
        """Return scores ``[c, most, S]`` of queries ``[c, most, D]``; -inf: no row."""
        keys = look_up(self._tree.keys, owners, held.clamp(min=0))
        scores = asking @ keys.transpose(1, 2)
        if self._biases is not None:
            scores += self._biases[held.clamp(min=0)][:, None]
        return scores.masked_fill_((held < 0)[:, None], -torch.inf)
