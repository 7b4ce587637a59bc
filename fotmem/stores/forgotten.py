"""Hides forgotten keys that a store still holds."""

from collections.abc import Callable

import torch
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores.hits import Bias, Hits

Search = Callable[[Tensor, int], Hits]
"""Takes queries ``[H, Q, D]`` and ``top_k``; finds rows, forgotten ones among them."""


def search_live(search: Search, queries: Tensor, top_k: int, *, forgotten: int, added: int) -> Hits:
    """Find keys that are not forgotten: ask for more hits until enough of them are live.

    Parameters
    ----------
    search : callable
    queries : Tensor
        Shape ``[H, Q, D]``.
    top_k : int
        Hits per query, at most the number of live keys.
    forgotten, added : int
        Rows before `forgotten` are hidden; rows from `added` on do not exist.

    Returns
    -------
    Hits
        At most ``top_k`` columns, best first.
    """
    asked = top_k
    while True:
        hits = search(queries, asked)
        live = hits.ids >= forgotten
        if asked == added or hits.ids.shape[-1] < asked:
            break
        if bool(((live.sum(-1) >= top_k) | (hits.ids[..., -1] < 0)).all()):
            break
        asked = min(2 * asked, added)
        if queries.shape[1] > block_length(len(queries), asked):
            parts = [
                search_live(search, half, top_k, forgotten=forgotten, added=added)
                for half in queries.chunk(2, dim=1)
            ]
            return Hits(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))
    # A stable sort moves the forgotten behind the live ones and keeps these in order.
    order = live.int().argsort(dim=-1, descending=True, stable=True)[..., :top_k]
    return Hits(
        hits.ids.where(live, -1).gather(-1, order),
        hits.scores.where(live, -torch.inf).gather(-1, order),
    )


def live_bias(bias: Bias, *, first_id: int, forgotten: int) -> Bias:
    """Let a bias of ids take rows, and hide the forgotten ones.

    Parameters
    ----------
    bias : callable
        Takes ids.
    first_id : int
        Id of row 0.
    forgotten : int
        Rows before this one are hidden.
    """

    def of_rows(rows: Tensor) -> Tensor:
        found = bias(rows + first_id)
        return found.masked_fill(rows < forgotten, -torch.inf) if forgotten else found

    return of_rows
