"""Attends from batch rows to the memories of each row; shapes as in `fotmem.attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fotmem.attention import (
    PartialAttention,
    block_length,
    merge,
    no_attention,
    topk_attention,
)
from fotmem.memory.view import MemoryView
from fotmem.stores.hits import Hits

Views = tuple[MemoryView, ...]


def attend_to_memories(
    views: Sequence[Views], layer: int, query: Tensor, scale: float
) -> PartialAttention | None:
    """Attend from each row of ``query [B, H * G, T, D]`` to its memories, if they hold anything.

    Rows that look at the same are folded into one search.
    """
    total: PartialAttention | None = None
    for (looked_at, top_k), rows in _jobs(views, layer).items():
        every = len(rows) == len(query)
        part = _attend(looked_at, layer, query if every else query[rows], top_k, scale)
        if total is None and every:
            total = part
            continue
        total = no_attention(query) if total is None else total
        joined = merge([PartialAttention(total.out[rows], total.lse[rows]), part])
        total.out[rows], total.lse[rows] = joined
    return total


def best_of_all(
    views: Sequence[MemoryView], layer: int, queries: Tensor, top_k: int, scale: float
) -> tuple[Hits, Tensor]:
    """Find the best keys of several memories together, for queries ``[H, Q, D]``.

    Returns
    -------
    tuple of Hits and Tensor
        Their ids and logits ``[H, Q, K]``, and the index into `views` of the memory of each.
    """
    found = [view.search(layer, queries, top_k, scale) for view in views]
    logits, best = torch.cat([hits.scores for hits in found], -1).topk(top_k, dim=-1)
    ids = torch.cat([hits.ids for hits in found], -1).gather(-1, best)
    return Hits(ids, logits), best // top_k


def _jobs(views: Sequence[Views], layer: int) -> dict[tuple[Views, int | None], list[int]]:
    """Return which rows look at which memories together, by these and their top k.

    Memories are looked at together where they share a top k; else one by one, for all rows.
    """
    jobs: dict[tuple[Views, int | None], list[int]] = {}
    for row, given in enumerate(views):
        filled = tuple(view for view in given if len(view.store(layer)))
        top_k = given[0].options.top_k if given else None
        together = [filled] if top_k is not None and filled else [(view,) for view in filled]
        for each in together:
            jobs.setdefault((each, top_k), []).append(row)
    return jobs


def _attend(
    views: Views, layer: int, query: Tensor, top_k: int | None, scale: float
) -> PartialAttention:
    """Attend from ``query [B, H * G, T, D]``, folded to ``[H, Q, D]``: stores have no batches."""
    rows, head_dim = query.shape[0], query.shape[3]
    heads = views[0].store(layer).num_heads
    folded = query.reshape(rows, heads, -1, head_dim).transpose(0, 1).reshape(heads, -1, head_dim)
    if len(views) == 1 or top_k is None:
        out, lse = views[0].attend(layer, folded, top_k, scale)
    else:
        out, lse = _attend_together(views, layer, folded, top_k, scale)
    out = out.reshape(heads, rows, -1, head_dim).transpose(0, 1)
    lse = lse.reshape(heads, rows, -1).transpose(0, 1)
    return PartialAttention(out.reshape(query.shape), lse.reshape(query.shape[:-1]))


def _attend_together(
    views: Views, layer: int, queries: Tensor, top_k: int, scale: float
) -> PartialAttention:
    """Attend with queries ``[H, Q, D]`` to the best keys of several memories."""
    heads, _, head_dim = queries.shape
    parts = []
    for block in queries.split(block_length(heads, len(views) * top_k, head_dim), dim=1):
        (ids, logits), places = best_of_all(views, layer, block, top_k, scale)
        values = torch.zeros(*ids.shape, head_dim, device=ids.device)
        for place, view in enumerate(views):  # id -1 gives zeros
            values += view.store(layer).values(ids.where(places == place, -1))
        parts.append(topk_attention(logits, values, scale=1.0, dtype=queries.dtype))
    return PartialAttention(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))
