"""Which points belong to which node: tables that grow, whose full rows are divided."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Halve = Callable[[Tensor, Tensor], Tensor]
"""Takes heads ``[c]`` and sets of points ``[c, S]``, -1 after the last; returns, bool, which are in
the second half, as `fotmem_clusters.halving.halved` does."""
GROWTH = 1.03
"""Room for new nodes grows by this factor."""


class Changes(NamedTuple):
    """Nodes that were divided, numbered across all heads."""

    nodes: Tensor
    """Shape ``[t]``, int64: all of them, new ones among them."""
    new: Tensor
    """Shape ``[m]``, int64: nodes that are new."""
    origins: Tensor
    """Shape ``[m]``, int64: the nodes that these were divided from."""


class Members:
    """The members of nodes: each head has nodes of at most `capacity` points.

    Attributes
    ----------
    table : Tensor
        Shape ``[H, room, capacity]``, int32: points; -1 after the last.
    sizes : Tensor
        Shape ``[H, room]``, int32.
    counts : Tensor
        Shape ``[H]``, int64: nodes of each head.
    """

    def __init__(self, heads: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.table = torch.full((heads, 1, capacity), -1, dtype=torch.int32, device=device)
        self.sizes = torch.zeros(heads, 1, dtype=torch.int32, device=device)
        self.counts = torch.ones(heads, dtype=torch.long, device=device)

    @property
    def room(self) -> int:
        """Nodes of a head for which there is room."""
        return self.table.shape[1]

    def numbered(self, nodes: Tensor) -> Tensor:
        """Number nodes of each head, ``[H, ...]``, across heads."""
        heads = torch.arange(len(nodes), device=nodes.device)
        return nodes + (heads * self.room).view(-1, *[1] * (nodes.dim() - 1))

    def of(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return heads and members ``[c, S]`` of nodes ``[c]``, numbered across heads; -1: none."""
        held = self.table.view(-1, self.capacity)[nodes].long()
        return (nodes // self.room)[:, None].expand_as(held), held

    def remove(self, nodes: Tensor, hidden: Tensor) -> None:
        """Remove members of nodes ``[c]``: those where `hidden` ``[c, S]`` is True."""
        table = self.table.view(-1, self.capacity)
        left = _compact(table[nodes].masked_fill(hidden, -1))
        table[nodes] = left
        self.sizes.view(-1)[nodes] = (left >= 0).sum(1).int()

    def reserve(self, nodes: int) -> None:
        """Make room for as many nodes of each head: their numbers across heads change."""
        if nodes > self.room:
            more = int(nodes * GROWTH) - self.room
            self.table = pad(self.table, (0, 0, 0, more), value=-1)
            self.sizes = pad(self.sizes, (0, more))

    def insert(self, heads: Tensor, points: Tensor, nodes: Tensor, halve: Halve) -> Changes:
        """Add points ``[n]`` to nodes ``[n]`` of their heads, and divide what is too large."""
        flat = heads * self.room + nodes
        order = flat.argsort(stable=True)
        touched, counts = flat[order].unique_consecutive(return_counts=True)
        ranks = torch.arange(len(flat), device=flat.device)
        ranks = ranks - (counts.cumsum(0) - counts).repeat_interleave(counts)
        before = self.sizes.view(-1)[touched].long()
        full = before + counts > self.capacity
        fits = ~full.repeat_interleave(counts)
        flat, points = flat[order], points[order]
        table = self.table.view(-1, self.capacity)
        table[flat[fits], (self.sizes.view(-1)[flat].long() + ranks)[fits]] = points[fits].int()
        self.sizes.view(-1)[touched[~full]] += counts[~full].int()
        if not full.any():
            return Changes(touched[:0], touched[:0], touched[:0])
        held = self._joined(touched[full], counts[full], points[~fits], ranks[~fits])
        return self._divide(touched[full], held, halve)

    def _joined(self, nodes: Tensor, counts: Tensor, points: Tensor, ranks: Tensor) -> Tensor:
        """Return the members of nodes ``[o]`` with the points that they get, padded by -1."""
        before = self.sizes.view(-1)[nodes].long()
        old = self.table.view(-1, self.capacity)[nodes].long()
        held = pad(old, (0, int(counts.max())), value=-1)
        rows = torch.arange(len(nodes), device=nodes.device).repeat_interleave(counts)
        held[rows, before[rows] + ranks] = points
        return held[:, : int((before + counts).max())]

    def _divide(self, large: Tensor, held: Tensor, halve: Halve) -> Changes:
        """Halve the sets ``[o, n]`` of nodes `large` until each fits a node."""
        heads, origins = large // self.room, large % self.room
        done: list[tuple[Tensor, Tensor]] = []
        source = torch.arange(len(large), device=large.device)
        while len(held):
            second = halve(heads[source], held)
            halves = torch.cat([held.masked_fill(second, -1), held.masked_fill(~second, -1)])
            source = source.repeat(2)
            halves = _compact(halves)
            big = (halves >= 0).sum(1) > self.capacity
            done.append((source[~big], halves[~big][:, : self.capacity]))
            held, source = halves[big], source[big]
            if len(held):
                held = held[:, : int((held >= 0).sum(1).max())]
        sources = torch.cat([each[0] for each in done])
        sets = torch.cat([pad(e[1], (0, self.capacity - e[1].shape[1]), value=-1) for e in done])
        order = sources.argsort(stable=True)
        sources, sets = sources[order], sets[order]
        first = torch.ones_like(sources, dtype=torch.bool)
        first[1:] = sources[1:] != sources[:-1]
        numbers = origins[sources]
        # New nodes of a head follow its last one; sources are in the order of heads.
        owner = heads[sources]
        more = (~first).long()
        added = torch.zeros_like(self.counts).index_add_(0, owner, more)
        rank = more.cumsum(0) - 1 - (added.cumsum(0) - added)[owner]
        numbers = torch.where(first, numbers, self.counts[owner] + rank)
        self.reserve(int((self.counts + added).max()))
        self.counts = self.counts + added
        flat = owner * self.room + numbers
        self.table.view(-1, self.capacity)[flat] = sets.int()
        self.sizes.view(-1)[flat] = (sets >= 0).sum(1).int()
        of = owner * self.room + origins[sources]
        return Changes(flat, flat[~first], of[~first])


def _compact(sets: Tensor) -> Tensor:
    """Move -1 to the end of each row."""
    order = (sets < 0).int().argsort(dim=1, stable=True)
    return sets.gather(1, order)
