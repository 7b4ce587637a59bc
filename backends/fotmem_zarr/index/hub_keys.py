"""The rows that stand far from all others: a search looks at every one of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fotmem.stores import Hits, HubKeys, best_hits
from fotmem_zarr.contents import Contents

SAMPLE = 4096
"""Rows from which it is learnt where hubs lie; fewer need none."""
STEP = 2048
"""Rows that are looked at at a time: bounded work."""


class Outer:
    """Hubs (`HubKeys`) among the rows of a store. Replaced as a whole when there are more."""

    def __init__(self, hubs: HubKeys | None = None, end: int = 0) -> None:
        self._hubs = hubs
        self._end = end  # rows that were looked at

    @classmethod
    def resumed(cls, rows: Sequence[Sequence[int]], contents: Contents) -> "Outer":
        """Take up the rows that a manifest names, of each head."""
        if not rows:
            return cls().grown(contents)
        longest = max(map(len, rows))
        ids = torch.tensor([[*some, *[-1] * (longest - len(some))] for some in rows])
        keys = contents.take("keys", ids.clamp(min=contents.forgotten)[:, None])[:, 0]
        return cls(_learnt(contents).holding(ids, keys.float()), contents.state.end)

    def rows(self) -> tuple[tuple[int, ...], ...]:
        """List the rows of each head, for the manifest."""
        if self._hubs is None:
            return ()
        return tuple(tuple(ids[ids >= 0].tolist()) for ids in self._hubs.held())

    def grown(self, contents: Contents) -> "Outer":
        """Look at the rows that came since."""
        end, hubs, start = contents.state.end, self._hubs, self._end
        if hubs is None:
            if end - contents.forgotten < SAMPLE:
                return self
            hubs, start = _learnt(contents), contents.forgotten
        for first in range(start, end, STEP):
            ids = torch.arange(first, min(first + STEP, end))
            keys = _keys(contents, ids).float()
            hubs = hubs.grown(ids, keys, first + len(ids) - contents.forgotten)
        return Outer(hubs, end)

    def joined(self, found: list[Hits], queries: Tensor, top_k: int, *, first: int) -> list[Hits]:
        """Add the hubs to what was found, each once; rows before `first` are left out."""
        hubs = self._hubs
        if hubs is None:
            return found
        others = best_hits(found, top_k)
        known = hubs.contain(others.ids)
        far = hubs.search(queries, top_k, lambda ids: torch.where(ids < first, -torch.inf, 0.0))
        return [Hits(others.ids, others.scores.masked_fill(known, -torch.inf)), far]


def _learnt(contents: Contents) -> HubKeys:
    last = min(contents.forgotten + SAMPLE, contents.state.end)
    return HubKeys.of(_keys(contents, torch.arange(contents.forgotten, last)).float())


def _keys(contents: Contents, ids: Tensor) -> Tensor:
    """Look up the keys ``[H, n, D]`` of rows ``[n]``."""
    return contents.take("keys", ids.expand(contents.budget.num_heads, 1, -1))[:, 0]
