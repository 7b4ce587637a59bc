"""Cells: keys by region, to see where a graph did not get to."""

import copy
import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.arrays import Ids, Scores
from fotmem.attention import WORKSPACE
from fotmem.few import pick
from fotmem.frame import Frame
from fotmem.kmeans import nearest_centres
from fotmem.rows import Rows
from fotmem.search import largest

RATE = 4
"""Cells in units of ``sqrt(N)``."""
STEP = 1024
"""Keys after which the centres move."""
MOVED = 3
"""Earlier keys that are assigned anew, for every key that comes."""
LOOKED = 4
"""Cells of a query that may be looked through."""
REACH = 0.4
"""How far above its centre a cell's best key is hoped to lie, in units of the cell's spread."""
MOST = 2048
"""Keys of a cell that are looked through: the newest."""
SLACK = 1.05
"""Lists of who is in which cell are made anew when there are so many times as many keys."""


class Cells:
    """The keys of each head in ``4 * sqrt(N)`` cells, each around the mean of its keys.

    Cells are begun as keys are added. A key goes to the cell whose centre is the nearest; with
    every key that comes, three earlier ones do so anew. That is k-means (MacQueen 1967), in which
    every key moves a few times as their number doubles: nothing is trained, or built anew.

    Parameters
    ----------
    frame : Frame
        In which vectors are those of keys.
    first : int
        Id of the first key.
    """

    def __init__(self, frame: Frame, *, first: int) -> None:
        num_heads, _, head_dim = frame.origin.shape
        self._frame, self._first = frame, first
        self._heads = np.arange(num_heads)[:, None, None]
        self._of = Rows(num_heads, 1, dtype=torch.int32, device=torch.device("cpu"))
        self._next = 0  # of the earlier ones, the next to move
        self._centres = torch.empty(num_heads, 0, head_dim, dtype=torch.float32)
        self._sums = self._centres.double()
        self._squares, self._counts = torch.empty(2, num_heads, 0, dtype=torch.double)
        # Centres, and how far cells reach, as those of keys.
        self._hopes = torch.empty(num_heads, head_dim + 1, 0, dtype=torch.float32)
        self._members = np.empty((num_heads, 0), np.int32)
        self._edges = [[0]] * num_heads

    @property
    def count(self) -> int:
        """Cells of a head."""
        return self._centres.shape[1]

    def add(self, vectors: Tensor, earlier: Callable[[int, int], Tensor]) -> None:
        """Append vectors, and move some of the earlier ones.

        Parameters
        ----------
        vectors : Tensor
            Shape ``[H, n, D]``, float32.
        earlier : callable
            Takes two ids, returns the vectors from the one to before the other.
        """
        for some in vectors.split(STEP, 1):
            self._begin(some)
            self._of.add(self._entered(some)[..., None])
            end = len(self._of)
            start, self._next = self._next, min(self._next + MOVED * some.shape[1], end)
            old = earlier(self._first + start, self._first + self._next)
            self._count(self._of.since(start)[1][:, : old.shape[1], 0].long(), old, -1)
            self._of.put(start, self._entered(old)[..., None])
            self._next %= end
        spread = (self._squares / self._counts.clamp(min=1)).float() - self._centres.square().sum(2)
        reach = REACH * spread.clamp(min=0).sqrt()[..., None]
        hopes = [self._frame.keys(self._centres), reach * self._frame.unit]
        self._hopes = torch.cat(hopes, 2).transpose(1, 2).contiguous()
        if len(self._of) >= SLACK * self._members.shape[1]:
            self._list()

    def promising(self, queries: Tensor, found: Ids, bar: Scores) -> tuple[Ids, NDArray[np.bool_]]:
        """Name cells whose best key probably scores above a bar, and of which none was found.

        Parameters
        ----------
        queries : Tensor
            Shape ``[H, Q, D]``.
        found : array of int64
            Shape ``[H, Q, K]``: ids; -1 for none.
        bar : array of float32
            Shape ``[H, Q]``: inner products with keys.

        Returns
        -------
        tuple of arrays
            Cells ``[H, Q, P]``, and which of them are meant.
        """
        count = queries.shape[1]
        each = max(self.count, LOOKED * found.shape[2])  # numbers that a query takes
        length = max(1, WORKSPACE // (len(queries) * each))
        if count <= length:
            return self._promising(queries, found, bar)
        blocks = [slice(start, start + length) for start in range(0, count, length)]
        parts = [self._promising(queries[:, some], found[:, some], bar[:, some]) for some in blocks]
        cells, meant = (np.concatenate(each, 1) for each in zip(*parts, strict=True))
        return cells, meant

    def _promising(self, queries: Tensor, found: Ids, bar: Scores) -> tuple[Ids, NDArray[np.bool_]]:
        lengths = torch.linalg.vector_norm(queries, dim=2, keepdim=True)
        every = torch.bmm(torch.cat([queries, lengths], 2), self._hopes)  # [H, Q, C]
        hoped, cells = (best.numpy() for best in largest(every, LOOKED))
        of = pick(self._of, self._heads, found - self._first)[..., 0]
        inside = np.where(found >= self._first, of, -1)
        seen = (inside[..., None] == cells[:, :, None]).any(2)
        return cells, (hoped > bar[..., None]) & ~seen

    def members(self, head: int, cell: int) -> Ids:
        """Return ids ``[n]`` of keys in a cell, ascending; those that came last may be missing."""
        edges = self._edges[head]
        if cell + 1 >= len(edges):
            return np.empty(0, np.int64)
        start, end = edges[cell], edges[cell + 1]
        return self._members[head, max(start, end - MOST) : end].astype(np.int64) + self._first

    def copy(self) -> Self:
        """Return independent cells."""
        twin = copy.copy(self)
        twin._of = self._of.copy()
        return twin

    def _begin(self, vectors: Tensor) -> None:
        """Begin cells around some of these vectors, as the number of keys asks for."""
        heads, count, dim = vectors.shape
        wanted = round(RATE * math.sqrt(len(self._of) + count))
        missing = min(count, wanted - self._centres.shape[1])
        if missing > 0:
            chosen = torch.arange(missing) * count // missing
            none = torch.zeros(heads, missing, dtype=torch.double)
            self._centres = torch.cat([self._centres, vectors[:, chosen]], 1)
            self._sums = torch.cat([self._sums, none[..., None].expand(-1, -1, dim)], 1)
            self._squares = torch.cat([self._squares, none], 1)
            self._counts = torch.cat([self._counts, none], 1)

    def _entered(self, vectors: Tensor) -> Tensor:
        """Let vectors enter the cells that are nearest now; return these, ``[H, n]``."""
        nearest = nearest_centres(vectors, self._centres)
        self._count(nearest, vectors, 1)
        means = (self._sums / self._counts.clamp(min=1)[..., None]).float()
        self._centres = means.where(self._counts[..., None] > 0, self._centres)
        return nearest

    def _count(self, cells: Tensor, vectors: Tensor, sign: int) -> None:
        """Add vectors to the sums of cells ``[H, n]``, or take them away."""
        signed = sign * vectors.double()
        self._sums = self._sums.scatter_add(1, cells[..., None].expand_as(signed), signed)
        self._squares = self._squares.scatter_add(1, cells, (signed * vectors).sum(2))
        self._counts = self._counts.scatter_add(1, cells, torch.full_like(signed[..., 0], sign))

    def _list(self) -> None:
        """List who is in which cell."""
        of = self._of.since(0)[1].squeeze(2)  # [H, N]
        sorted_of, order = of.sort(dim=1, stable=True)
        cells = torch.arange(self._centres.shape[1] + 1, dtype=torch.int32)
        edges = torch.searchsorted(sorted_of, cells.expand(len(of), -1).contiguous())
        self._edges, self._members = edges.tolist(), order.int().numpy()
