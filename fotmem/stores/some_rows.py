"""Keys and values of some rows of a store, block by block, and exact search among them."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from fotmem.stores.brute_force import best_hits, exact_search
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.id_ranges import IdRanges

SEARCHED, ATTENDED = 2**17, 2**16
"""Elements of a range of keys, from which a search or attention for it alone costs no more than a
copy: such a call takes about 50 us, and attention copies values as well."""


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


def biased_by_position(bias: Bias, rows: IdRanges) -> Bias:
    """Let a bias of rows take positions in a set of rows."""
    return lambda positions: bias(rows.at(positions))


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


def are_long(rows: IdRanges, vectors: Tensor, least: int) -> bool:
    """Return whether ranges of rows of ``[H, N, D]`` have this many elements on average."""
    return len(rows) * vectors.shape[0] * vectors.shape[2] >= least * len(list(rows))


def picked(
    blocks: Iterable[tuple[Tensor, Tensor]], rows: IdRanges, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Keep some rows of blocks of keys and values ``[H, n, D]``, which begin with row `first`."""
    for keys, values in blocks:
        end = first + keys.shape[1]
        here = rows.within(first, end)
        if are_long(here, keys, ATTENDED):
            for start, stop in here:
                some = slice(start - first, stop - first)
                yield keys[:, some], values[:, some]
        else:
            places = here.at(torch.arange(len(here), device=keys.device)) - first
            yield _pick(keys, places), _pick(values, places)
        first = end


def _pick(vectors: Tensor, places: Tensor) -> Tensor:
    # Head by head: `index_select` of all would first copy what is not contiguous.
    return torch.stack([each.index_select(0, places) for each in vectors])
