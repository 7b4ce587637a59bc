"""The hub keys of a store: a search scores all of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fotmem.stores import Hits, HubKeys, best_hits

SAMPLE = 4096
"""Rows from which a store learns what hub keys are; a smaller store needs none."""
STEP = 2048
"""Rows that are examined at a time: bounded work."""

KeysOf = Callable[[Tensor], Tensor]
"""Looks up the keys of rows ``[H, n]``, or ``[1, n]`` of all heads: ``[H, n, D]``."""


class HubRows:
    """Hub keys (`fotmem.stores.HubKeys`) among the rows of a store; replaced, never changed."""

    def __init__(self, hubs: HubKeys | None = None, end: int = 0) -> None:
        self._hubs = hubs
        self._end = end  # rows that were examined

    @classmethod
    def restored(
        cls, rows: Sequence[Sequence[int]], keys_of: KeysOf, *, first: int, end: int
    ) -> "HubRows":
        """Restore the hub keys of each head whose rows a manifest names; parameters as `grown`."""
        if not rows:
            return cls().grown(keys_of, first=first, end=end)
        longest = max(map(len, rows))
        ids = torch.tensor([[*some, *[-1] * (longest - len(some))] for some in rows])
        keys = keys_of(ids.clamp(min=first)).float()
        return cls(_learnt(keys_of, first, end).holding(ids, keys), end)

    def rows(self) -> tuple[tuple[int, ...], ...]:
        """Return the rows of each head, for the manifest."""
        if self._hubs is None:
            return ()
        return tuple(tuple(ids[ids >= 0].tolist()) for ids in self._hubs.held())

    def grown(self, keys_of: KeysOf, *, first: int, end: int) -> "HubRows":
        """Examine the rows that were added since.

        Parameters
        ----------
        keys_of : callable
        first : int
            First row that is not forgotten.
        end : int
            Rows ever added.
        """
        hubs, start = self._hubs, self._end
        if hubs is None:
            if end - first < SAMPLE:
                return self
            hubs, start = _learnt(keys_of, first, end), first
        for row in range(start, end, STEP):
            ids = torch.arange(row, min(row + STEP, end))
            hubs = hubs.grown(ids, keys_of(ids[None]).float(), row + len(ids) - first)
        return HubRows(hubs, end)

    def joined(self, found: list[Hits], queries: Tensor, top_k: int, *, first: int) -> list[Hits]:
        """Add the hub keys to the hits, each once; rows before `first` are left out."""
        hubs = self._hubs
        if hubs is None:
            return found
        others = best_hits(found, top_k)
        known = hubs.contain(others.ids)
        far = hubs.search(queries, top_k, lambda ids: torch.where(ids < first, -torch.inf, 0.0))
        return [Hits(others.ids, others.scores.masked_fill(known, -torch.inf)), far]


def _learnt(keys_of: KeysOf, first: int, end: int) -> HubKeys:
    """Learn what hub keys are from the oldest rows."""
    return HubKeys.of(keys_of(torch.arange(first, min(first + SAMPLE, end))[None]).float())
