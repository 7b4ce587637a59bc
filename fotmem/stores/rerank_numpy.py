"""Re-ranks candidates of few queries in NumPy, whose calls take a fifth of the time of torch's."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.attention import WORKSPACE
from fotmem.stores.arrays import Ids
from fotmem.stores.brute_force import sorted_hits
from fotmem.stores.growing_rows import GrowingRows
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.hub_keys import HubKeys

FEW = 4
"""Queries of a head up to which NumPy is faster."""
APART = 2**40
"""Distance between the numbers of two heads, so that rows of all heads are one ascending list."""


class NumpyReranker:
    """Chooses the best among candidates and hub keys.

    It finds what an `IndexedStore` finds by torch, whose calls cost more than their work where
    queries are few. Large products are left to torch: NumPy would use a thread per core.

    Parameters
    ----------
    hubs : HubKeys
        On the CPU.
    """

    def __init__(self, hubs: HubKeys) -> None:
        held = hubs.held().numpy()
        self._keys = hubs.keys.transpose(1, 2).contiguous()  # [H, D, m]
        self._ids = held[:, None]  # [H, 1, m]
        self._heads = np.arange(len(held))[:, None, None]
        self._first = self._heads * APART
        last = np.iinfo(np.int64).max  # so that a search ends within
        self._known = np.append((self._ids + self._first)[self._ids >= 0], last)

    def suits(self, found: Tensor) -> bool:
        """Return whether queries are few, and candidates ``[H, Q, C]`` fit the workspace."""
        return found.shape[1] <= FEW and found.numel() * self._keys.shape[1] <= WORKSPACE

    def rerank(
        self,
        queries: Tensor,
        found: Tensor,
        rows: GrowingRows,
        top_k: int,
        bias: Bias | None,
        start: int,
    ) -> Hits:
        """Score candidates and hub keys, each key once; best first.

        Parameters
        ----------
        queries : Tensor
            Shape ``[H, Q, D]``, contiguous float32.
        found : Tensor
            Shape ``[H, Q, C]``: rows of candidates, -1 for none.
        rows : GrowingRows
            The keys.
        top_k : int
        bias : callable, optional
            What to add to scores, by row.
        start : int
            The first row that `bias` is asked for, also in place of -1.
        """
        heads, count, candidates = found.shape
        ids = np.empty((heads, count, candidates + self._ids.shape[2]), np.int64)
        near, ids[..., candidates:] = found.numpy(), self._ids
        ids[..., :candidates] = np.where(self._contain(near), -1, near)
        keys = _pick(rows, self._heads, near)  # [H, Q, C, D]
        scores = np.empty(ids.shape, np.float32)
        scores[..., :candidates] = np.einsum("hqcd,hqd->hqc", keys, queries.numpy())
        scores[..., candidates:] = torch.bmm(queries, self._keys).numpy()
        if bias is not None:
            scores += bias(torch.from_numpy(ids.clip(min=start))).numpy()
        scores[ids < 0] = -np.inf
        return sorted_hits(Hits(torch.from_numpy(ids), torch.from_numpy(scores)), top_k)

    def _contain(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which of ``[H, Q, C]`` are hub keys."""
        wanted = ids + self._first
        here: NDArray[np.bool_] = self._known[self._known.searchsorted(wanted)] == wanted
        return here


def _pick(rows: GrowingRows, heads: Ids, ids: Ids) -> NDArray[Any]:
    """Look up vectors ``[..., D]`` by head and row, which broadcast to ``[...]``, in fewer calls.

    Finds what `GrowingRows.take` does; bfloat16, which NumPy does not know, becomes float32.
    """
    if rows.is_mapped:
        found = rows.take(torch.from_numpy(ids))
        return found.float().numpy() if found.dtype == torch.bfloat16 else found.numpy()
    flat, first, capacity = rows.flat()
    places: Ids = np.add(np.maximum(ids, first), heads * capacity - first, dtype=np.int64)
    if flat.is_cpu and flat.dtype != torch.bfloat16:
        return flat.numpy().take(places, axis=0)
    some = flat.index_select(0, torch.from_numpy(places.ravel()).to(flat.device))
    return some.float().cpu().numpy().reshape(*places.shape, flat.shape[1])
