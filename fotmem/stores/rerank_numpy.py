"""Few queries, on the CPU: answered in NumPy, of which a call takes a fifth of one of torch."""

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
"""Queries of a head that are answered sooner so."""
APART = 2**40
"""Added to the ids of each head, so that those of all heads are one ascending row."""


class FewQueries:
    """Chooses the best among candidates and hubs.

    It finds what an `IndexedStore` finds for many, whose calls of torch cost more than their work
    if there are few. Products with more than a few numbers are left to torch: those of NumPy would
    use as many threads as there are cores.

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
        """Tell whether there are few queries, and not too many candidates ``[H, Q, C]``."""
        return found.shape[1] <= FEW and found.numel() * self._keys.shape[1] <= WORKSPACE

    def best(
        self,
        queries: Tensor,
        found: Tensor,
        rows: GrowingRows,
        top_k: int,
        bias: Bias | None,
        start: int,
    ) -> Hits:
        """Compute the scores of candidates and hubs, each key once; best first.

        Parameters
        ----------
        queries : Tensor
            Shape ``[H, Q, D]``, contiguous float32.
        found : Tensor
            Shape ``[H, Q, C]``: ids of candidates, -1 for none.
        rows : GrowingRows
            The keys.
        top_k : int
        bias : callable, optional
            What to add to scores, by id.
        start : int
            The first id that `bias` is asked for; instead of -1, too.
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
        """Tell which of ids ``[H, Q, C]`` are hubs."""
        wanted = ids + self._first
        here: NDArray[np.bool_] = self._known[self._known.searchsorted(wanted)] == wanted
        return here


def _pick(rows: GrowingRows, heads: Ids | int, ids: Ids) -> NDArray[Any]:
    """Look up rows ``[..., D]`` by head and id, which broadcast to ``[...]``, in fewer calls.

    Finds what `GrowingRows.take` does; bfloat16, which NumPy does not know, becomes float32.
    """
    flat, first, room = rows.flat()
    places: Ids = np.add(np.maximum(ids, first), heads * room - first, dtype=np.int64)
    if flat.is_cpu and flat.dtype != torch.bfloat16:
        found: NDArray[Any] = flat.numpy().take(places, axis=0)
        return found
    some = flat.index_select(0, torch.from_numpy(places.ravel()).to(flat.device))
    return some.float().cpu().numpy().reshape(*places.shape, flat.shape[1])
