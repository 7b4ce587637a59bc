"""Reads the keys and values of chosen clusters, each cluster once for all queries of a call."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Bias, HubKeys
from fotmem_clusters.tree import WORKSPACE, Tree, look_up
from fotmem_clusters.visits import Visit, visits

LOWEST = torch.finfo(torch.float32).min


class Reader:
    """Reads clusters of a tree.

    Parameters
    ----------
    tree : Tree
    bias : callable, optional
        Takes rows; what to add to inner products.
    scale : float
        Of the bias; queries are scaled already.
    hubs : HubKeys, optional
        Rows that are left out.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        bias: Bias | None = None,
        scale: float = 1.0,
        hubs: HubKeys | None = None,
    ) -> None:
        self._tree, self._bias, self._scale, self._hubs = tree, bias, scale, hubs
        sizes = tree.nodes.sizes
        self.log_sizes = sizes.log()
        """Shape ``[H, C]``: log of the keys of each cluster, each times the exp of its bias."""
        if bias is not None:
            held = tree.clusters.table[:, : sizes.shape[1]].long()
            biases = self._biases(held).masked_fill(held < 0, -torch.inf)
            self.log_sizes = biases.logsumexp(-1)

    def attend(self, queries: Tensor, chosen: Tensor) -> PartialAttention:
        """Attend with queries ``[H, Q, D]`` to each of their clusters ``[H, Q, P]`` by itself.

        Returns
        -------
        PartialAttention
            ``out [H, Q, P, D]`` and ``lse [H, Q, P]``.
        """
        flat, dim, wide = queries.flatten(0, 1), queries.shape[2], chosen.shape[2]
        outs, lses = flat.new_empty(chosen.numel(), dim), flat.new_empty(chosen.numel())
        for visit in self._visits(chosen, 2 * dim, 2 * dim):
            owners, held = self._tree.clusters.of(visit.nodes)
            values = look_up(self._tree.values, owners, held.clamp(min=0))
            scores = self._scores(flat[visit.pairs // wide], owners, held)
            lse = scores.logsumexp(-1, keepdim=True)
            pairs = visit.pairs[visit.there]
            weights = (scores - lse.clamp(min=LOWEST)).exp()  # a head may have fewer clusters
            outs[pairs] = (weights @ values)[visit.there]
            lses[pairs] = lse.squeeze(-1)[visit.there]
        return PartialAttention(outs.view(*chosen.shape, dim), lses.view(chosen.shape))

    def best(self, queries: Tensor, chosen: Tensor, top_k: int) -> Tensor:
        """Return the best rows ``[H, Q, at most top_k]`` in clusters ``[H, Q, P]``; -1: none."""
        flat, dim, wide = queries.flatten(0, 1), queries.shape[2], chosen.shape[2]
        clusters = self._tree.clusters
        found = flat.new_full((chosen.numel(), clusters.capacity), -torch.inf)
        for visit in self._visits(chosen, dim, dim):
            scores = self._scores(flat[visit.pairs // wide], *clusters.of(visit.nodes))
            found[visit.pairs[visit.there]] = scores[visit.there]
        scores, places = found.view(*chosen.shape[:2], -1).topk(
            min(top_k, wide * clusters.capacity), -1, sorted=False
        )
        nodes = clusters.numbered(chosen.gather(2, places // clusters.capacity))
        rows = clusters.table.flatten()[nodes * clusters.capacity + places % clusters.capacity]
        return rows.long().where(scores > -torch.inf, -1)

    def _visits(self, chosen: Tensor, per_row: int, per_pair: int) -> Iterator[Visit]:
        clusters = self._tree.clusters
        capacity = clusters.capacity
        return visits(clusters.numbered(chosen), capacity * per_row, capacity + per_pair, WORKSPACE)

    def _scores(self, asking: Tensor, owners: Tensor, held: Tensor) -> Tensor:
        """Return scores ``[c, most, S]`` of queries ``[c, most, D]``; -inf: no row."""
        keys = look_up(self._tree.keys, owners, held.clamp(min=0))
        scores = asking @ keys.transpose(1, 2)
        if self._bias is not None:
            scores += self._biases(held)[:, None]
        hidden = held < 0
        if self._hubs is not None:
            hidden |= self._hubs.contain(held, owners)
        return scores.masked_fill_(hidden[:, None], -torch.inf)

    def _biases(self, held: Tensor) -> Tensor:
        """Return the bias of rows of any shape; of some row where there is none, -1."""
        assert self._bias is not None
        return self._bias(held.clamp(min=self._tree.first)) * self._scale
