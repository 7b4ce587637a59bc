"""Hides keys that a store still holds: forgotten ones, and those that a search may not find."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.id_ranges import IdRanges

PER_HIT = 32
"""Rows are compared where a search would ask for more hits than one in this many of them.

Measured with 65,536 keys (2 heads of 64 dimensions) of attention and random ones: for one query,
`faiss-ivf`, `hnsw` and `zarr` take as long for a hit as for comparing 16 to 64 keys, for 64 queries
as for over 100; and a search that finds too few costs twice.
"""
SLACK = 2
"""Hits to ask for at first, per hit that is expected to be enough: rows of a document are alike."""

Search = Callable[[Tensor, int], Hits]
"""Takes queries ``[H, Q, D]`` and ``top_k``; finds rows, hidden ones among them."""
Shown = Callable[[Tensor], Tensor]
"""Takes rows; returns which of them are not hidden."""


def search_shown(
    search: Search, queries: Tensor, top_k: int, *, shown: Shown, asked: int, most: int
) -> Hits:
    """Find keys that are not hidden: ask for more hits until enough of them are shown.

    Only queries that lack some are asked again, so that the hits of one do not depend on others.

    Parameters
    ----------
    search : callable
    queries : Tensor
        Shape ``[H, Q, D]``, ``Q >= 1``.
    top_k : int
        Hits per query.
    shown : callable
    asked, most : int
        Hits to ask for at first, and at last.

    Returns
    -------
    Hits
        ``top_k`` columns, best first; padded where `most` hits hold fewer that are shown.
    """
    if asked > top_k and queries.shape[1] > (length := block_length(len(queries), asked)):
        parts = [
            search_shown(search, some, top_k, shown=shown, asked=asked, most=most)
            for some in queries.split(length, dim=1)
        ]
        return Hits(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))
    hits = search(queries, asked)
    good = shown(hits.ids)
    if asked < most and hits.ids.shape[-1] == asked:
        enough = (good.sum(-1) >= top_k) | (hits.ids[..., -1] < 0)
        if not enough.all():
            more = min(2 * asked, most)
            again = partial(search_shown, search, top_k=top_k, shown=shown, asked=more, most=most)
            if queries.shape[1] == 1:  # the case of generating
                return again(queries)
            found = partial(_first_good, hits, good, top_k)
            return _replaced(found, queries, ~enough.all(0), again)
    return _first_good(hits, good, top_k)


def search_among(
    search: Search,
    compare: Callable[[Tensor], Hits],
    queries: Tensor,
    top_k: int,
    *,
    rows: IdRanges,
    live: int,
) -> Hits:
    """Find keys among some rows: by a search among all, or by comparing these where they are few.

    Parameters
    ----------
    search : callable
        Finds rows, others among them.
    compare : callable
        Takes queries; compares them with all of these rows.
    queries : Tensor
        Shape ``[H, Q, D]``, ``Q >= 1``.
    top_k : int
        Hits per query, at most the number of `rows`.
    rows : IdRanges
        Not empty.
    live : int
        Number of all rows that are not forgotten.
    """
    count = len(rows)
    asked, most = -(-SLACK * top_k * live // count), count // PER_HIT
    if asked > most:
        return compare(queries)
    shown = rows.contains
    hits = search_shown(search, queries, top_k, shown=shown, asked=asked, most=most)
    lacking = (hits.ids[..., -1] < 0).any(0)
    return _replaced(lambda: hits, queries, lacking, compare) if lacking.any() else hits


@dataclass(frozen=True)
class LiveBias:
    """A bias of ids that takes rows, and hides some. Two are equal where their parts are.

    Parameters
    ----------
    bias : callable
        Takes ids.
    first_id : int
        Id of row 0.
    shown : callable or None
        None: all rows are shown.
    """

    bias: Bias
    first_id: int
    shown: Shown | None

    def __call__(self, rows: Tensor) -> Tensor:
        """Return what is added to the scores of rows; -inf: a hidden row."""
        found = self.bias(rows + self.first_id) if self.first_id else self.bias(rows)
        return found if self.shown is None else found.where(self.shown(rows), -torch.inf)


def _first_good(hits: Hits, good: Tensor, top_k: int) -> Hits:
    """Keep the first good hits, in their order."""
    # A stable sort moves the others behind them.
    order = good.int().argsort(dim=-1, descending=True, stable=True)[..., :top_k]
    return Hits(
        hits.ids.where(good, -1).gather(-1, order),
        hits.scores.where(good, -torch.inf).gather(-1, order),
    ).padded(top_k)


def _replaced(
    found: Callable[[], Hits], queries: Tensor, lacking: Tensor, search: Callable[[Tensor], Hits]
) -> Hits:
    """Return hits, but those of another search for the queries that lack some, ``[Q]``."""
    if lacking.all():
        return search(queries)
    hits, more = found(), search(queries[:, lacking])
    for mine, theirs in zip(hits, more, strict=True):
        mine[:, lacking] = theirs
    return hits
