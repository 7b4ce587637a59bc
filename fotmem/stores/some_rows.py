"""Keys and values of some rows of a store, block by block, and exact search among them."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from fotmem.stores.brute_force import best_hits, exact_search
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.id_ranges import IdRanges

SHORT = 128
"""Ranges of fewer rows on average are copied: that costs less than a search in each."""


def compare(
    blocks: Iterable[Tensor], queries: Tensor, top_k: int, *, rows: IdRanges, bias: Bias | None
) -> Hits:
    """Find the best of some rows by comparing all of them.

    Parameters
    ----------
    blocks : iterable of Tensor
        The keys of `rows`, in order, ``[H, n, D]`` each, at least one.
    queries : Tensor
        Shape ``[H, Q, D]``.
    top_k : int
        Hits per query, at most the number of `rows`.
    rows : IdRanges
    bias : callable, optional
        What to add to scores, by row.
    """
    by_position = None if bias is None else biased_by_position(bias, rows)
    start, best = 0, list[Hits]()
    for keys in blocks:
        found = exact_search(queries, keys, top_k, first_id=start, bias=by_position)
        best = [best_hits([*best, found], top_k)]
        start += keys.shape[1]
    [(positions, scores)] = best
    return Hits(rows.at(positions), scores)


def biased_by_position(bias: Bias, rows: IdRanges, first_id: int = 0) -> Bias:
    """Let a bias of ids take positions in a set of rows; `first_id` is the id of row 0."""
    return lambda positions: bias(rows.at(positions) + first_id)


def looked_up(
    look_up: Callable[[Tensor], Tensor],
    rows: IdRanges,
    *,
    heads: int,
    length: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """Look up vectors of rows, ``[H, n, D]`` for at most `length` rows at a time.

    `look_up` takes rows ``[H, 1, n]`` and returns ``[H, 1, n, D]``.
    """
    count = len(rows)
    for start in range(0, count, length):
        some = rows.at(torch.arange(start, min(start + length, count), device=device))
        yield look_up(some.expand(heads, 1, -1))[:, 0]


def picked(
    blocks: Iterable[tuple[Tensor, Tensor]], rows: IdRanges, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keep some rows of blocks of keys and values ``[H, n, D]``, which begin with row `first`."""
    for keys, values in blocks:
        end = first + keys.shape[1]
        here = rows.within(first, end)
        if len(here) == keys.shape[1]:
            yield keys, values
        elif here:
            yield _pick(keys, here, first), _pick(values, here, first)
        first = end


def pieces(vectors: Tensor, rows: IdRanges, first: int, length: int) -> Iterator[Tensor]:
    """Yield the vectors of some rows of ``[H, N, D]``, whose first row is `first`.

    Long ranges are views; many short ones are copied, at most `length` rows at a time.
    """
    ranges, count = list(rows), len(rows)
    if count >= SHORT * len(ranges):
        for start, stop in ranges:
            yield vectors[:, start - first : stop - first]
        return
    for start in range(0, count, length):
        positions = torch.arange(start, min(start + length, count), device=vectors.device)
        yield vectors.index_select(1, rows.at(positions) - first)


def _pick(vectors: Tensor, rows: IdRanges, first: int) -> Tensor:
    ranges = list(rows)
    if len(ranges) == 1:
        [(start, stop)] = ranges
        return vectors[:, start - first : stop - first]
    places = rows.at(torch.arange(len(rows), device=vectors.device)) - first
    return vectors.index_select(1, places)
