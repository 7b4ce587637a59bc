"""Exact search by brute force: the keys with the largest inner products, block by block."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fotmem.attention import block_length, converted_length
from fotmem.stores.hits import Bias, Hits

KEYS_PER_BLOCK = 2**14
SMALL = 2**16
"""Scores up to which `torch.topk` alone is faster."""
FEWEST = 4
"""Scores of a group from which looking at maxima first is faster."""


def exact_search(
    queries: Tensor, keys: Tensor, top_k: int, *, first_id: int = 0, bias: Bias | None = None
) -> Hits:
    """Find the best keys by comparing all of them.

    Each temporary holds at most ``max(WORKSPACE, H * 8 * top_k * D)`` elements or twice those of
    the result, and at most four are alive at a time, whatever ``Q`` and ``N``.

    Parameters
    ----------
    queries : Tensor
        Shape ``[H, Q, D]``, any floating dtype; scores are computed in float32.
    keys : Tensor
        Shape ``[H, N, D]``, ``N >= 1``, on the same device; they may have another dtype.
    top_k : int
        Hits per query, at least 1; at most ``N`` are returned.
    first_id : int
        Id of the first key.
    bias : callable, optional
        What to add to scores, by id: takes ids int64 ``[n]``, returns float32 ``[n]``.

    Returns
    -------
    Hits
        Best first, ``min(top_k, N)`` columns.

    Examples
    --------
    >>> import torch
    >>> keys = torch.tensor([[[1.0], [3.0], [2.0]]])
    >>> exact_search(torch.ones(1, 1, 1), keys, 2).ids
    tensor([[[1, 2]]])
    """
    top_k = min(top_k, keys.shape[1])
    columns = min(keys.shape[1], max(KEYS_PER_BLOCK, 8 * top_k))
    per_block = block_length(keys.shape[0], columns)
    return in_blocks(
        lambda some: _best(queries[:, some], keys, top_k, first_id, bias),
        queries.shape[1],
        per_block,
    )


def best_hits(parts: Sequence[Hits], top_k: int) -> Hits:
    """Join hits among disjoint keys.

    Parameters
    ----------
    parts : sequence of Hits
        At least one, for the same queries; a single one is best first.
    top_k : int
        Hits per query at most.

    Returns
    -------
    Hits
        Best first; as many columns as there are, at most `top_k`.
    """
    if len(parts) == 1:
        return parts[0].first(top_k)
    return sorted_hits(Hits(*(torch.cat(each, -1) for each in zip(*parts, strict=True))), top_k)


def sorted_hits(hits: Hits, top_k: int) -> Hits:
    """Choose the best of hits in any order; best first."""
    scores, order = largest(hits.scores, top_k)
    return Hits(hits.ids.gather(-1, order), scores)


def in_blocks(search: Callable[[slice], Hits], count: int, length: int) -> Hits:
    """Search for `count` queries, at most `length` at a time; `search` takes their slice."""
    if count <= length:
        return search(slice(None))
    parts = [search(slice(start, start + length)) for start in range(0, count, length)]
    return Hits(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


def largest(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Do what `torch.topk` does, several times faster on long rows.

    The best k scores lie in the k groups with the best maxima, and maxima are cheap.
    """
    length = scores.shape[-1]
    top_k = min(top_k, length)
    group = math.isqrt(length // top_k)  # balances the two selections
    if group < FEWEST or scores.numel() <= SMALL:
        return scores.topk(top_k, dim=-1)
    groups = length // group
    maxima = scores[..., : group * groups].unflatten(-1, (group, groups)).amax(-2)
    best = maxima.topk(top_k, dim=-1, sorted=False).indices
    ids = (best[..., None] + groups * torch.arange(group, device=best.device)).flatten(-2)
    rest = torch.arange(group * groups, length, device=best.device).expand(*ids.shape[:-1], -1)
    ids = torch.cat([ids, rest], -1)
    scores, order = scores.gather(-1, ids).topk(top_k, dim=-1)
    return scores, ids.gather(-1, order)


def _best(queries: Tensor, keys: Tensor, top_k: int, first_id: int, bias: Bias | None) -> Hits:
    """Search block after block of keys, keeping the best so far."""
    queries = queries.float()
    length = max(block_length(keys.shape[0], queries.shape[1]), 8 * top_k)
    found: Hits | None = None
    for start in range(0, keys.shape[1], length):
        block, first = keys[:, start : start + length], first_id + start
        scores = _scores(queries, block)
        if bias is not None:
            scores += bias(torch.arange(first, first + block.shape[1], device=keys.device))
        scores, ids = largest(scores, top_k)
        here = Hits(ids + first if first else ids, scores)
        found = here if found is None else best_hits([found, here], top_k)
    assert found is not None
    return found


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the scores ``[H, Q, n]`` of queries ``[H, Q, D]``, float32, and keys ``[H, n, D]``."""
    if keys.dtype == queries.dtype:
        return queries @ keys.transpose(1, 2)
    parts: list[Tensor] = [
        queries @ some.float().transpose(1, 2) for some in keys.split(converted_length(keys), 1)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)
