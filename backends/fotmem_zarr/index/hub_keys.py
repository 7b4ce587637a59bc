"""The hub keys of a store: a search scores all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.disk import LayerShape, require
from fotmem.stores import Arrays, Hits, HubKeys, best_hits
from fotmem_zarr.index.segment_entry import check_hubs

SAMPLE = 4096
"""Rows from which a store learns what hub keys are; a smaller store needs none."""
STEP = 2048
"""Rows that are examined at a time: bounded work."""

HUBS = "hubs/"
"""How the names of arrays begin that are hub keys."""

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

    @classmethod
    def of_arrays(cls, arrays: Arrays, layer: LayerShape, *, end: int) -> "HubRows":
        """Restore what `arrays` returned; raise `ValueError` if it is not of `end` rows."""
        found = {name.removeprefix(HUBS): arrays[name] for name in arrays if name.startswith(HUBS)}
        if not found:
            return cls()
        heads, head_dim, dtype = layer
        keys = torch.from_numpy(np.array(found["keys"])).view(dtype).float()
        most, one = keys.shape[1], (heads, 1)
        expected = {"against": (heads, head_dim), "ids": (heads, most), "bar": one, "length": one}
        fit = all(found[name].shape == shape for name, shape in expected.items())
        fit = fit and keys.shape == (heads, most, head_dim) and bool(keys.isfinite().all())
        require(fit, "the hub keys do not fit the layer")
        hubs = HubKeys.of_arrays({**found, "keys": keys.numpy()}, torch.device("cpu"))
        new = cls(hubs, end)
        check_hubs(new.rows(), heads=heads, rows=end)
        return new

    def arrays(self, end: int, dtype: torch.dtype) -> dict[str, NDArray[Any]]:
        """Return those before row `end` as arrays, keys as bytes of `dtype`; empty if unknown."""
        if self._hubs is None:
            return {}
        held = self._hubs.held()
        hubs = self._hubs.holding(held.where(held < end, -1), self._hubs.keys)
        keys = hubs.keys.to(dtype).view(torch.uint8).numpy()
        return {HUBS + name: array for name, array in {**hubs.arrays(), "keys": keys}.items()}

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
