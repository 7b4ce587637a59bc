"""Attends to hits, or to all keys, in bounded workspace."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fotmem.attention import (
    PartialAttention,
    block_length,
    dense_attention,
    merge,
    no_attention,
    topk_attention,
)
from fotmem.stores.hits import Bias, Hits


def attend_to_hits(
    search: Callable[[Tensor], Hits],
    values: Callable[[Tensor], Tensor],
    queries: Tensor,
    *,
    top_k: int,
    scale: float,
) -> PartialAttention:
    """Attend to what a search finds, block by block of queries.

    Parameters
    ----------
    search : callable
        Takes some of the queries ``[H, q, D]``; returns ``top_k`` hits of each.
    values : callable
        Takes their ids ``[H, q, K]``; returns values ``[H, q, K, D]``, anything for -1.
    queries : Tensor
        Shape ``[H, Q, D]``, ``Q >= 1``.
    top_k : int
        Hits per query.
    scale : float
        Factor of the scores.
    """

    def attend(block: Tensor) -> PartialAttention:
        ids, scores = search(block)
        return topk_attention(scores, values(ids), scale=scale, dtype=queries.dtype)

    heads, count, head_dim = queries.shape
    length = block_length(heads, top_k, head_dim)
    if count <= length:
        return attend(queries)
    parts = map(attend, queries.split(length, dim=1))
    return PartialAttention(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


def attend_to_all(
    blocks: Iterable[tuple[Tensor, Tensor]],
    queries: Tensor,
    *,
    scale: float,
    bias: Bias | None = None,
    first_id: int = 0,
) -> PartialAttention:
    """Attend to all keys and values ``[H, n, D]`` of `blocks`.

    Parameters
    ----------
    blocks : iterable of tuple of Tensor
    queries : Tensor
        Shape ``[H, Q, D]``.
    scale : float
        Factor of the inner products.
    bias : callable, optional
        What is added to inner products, before `scale`.
    first_id : int
        Id of the first key of the first block, for `bias`.
    """
    # The first part sets the dtype of the merged: float32, or every block would round.
    merged = no_attention(queries, dtype=torch.float32)
    start = first_id
    for keys, values in blocks:
        end = start + keys.shape[1]
        mask = None
        if bias is not None:
            mask = bias(torch.arange(start, end, device=keys.device)) * scale
        part = dense_attention(queries[None], keys[None], values[None], scale=scale, mask=mask)
        merged = merge([merged, PartialAttention(part.out[0], part.lse[0])])
        start = end
    return merged
