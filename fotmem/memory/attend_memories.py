"""Attends from batch rows to the memories of each row; shapes as in `fotmem.attention`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

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
Jobs = Mapping[Views, list[int]]
"""Which rows look at which memories together."""


def attend_to_memories(
    views: Sequence[Views], layer: int, query: Tensor, scale: float
) -> PartialAttention | None:
    """Attend from each row of ``query [B, H * G, T, D]`` to its memories, if they hold anything.

    A memory is searched once for all rows that look at it.
    """
    total: PartialAttention | None = None
    for rows, part in _parts(views, layer, query, scale):
        if total is None and len(rows) == query.shape[0]:
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
    return _best([view.search(layer, queries, top_k, scale) for view in views], top_k)


def _best(found: Sequence[Hits], top_k: int) -> tuple[Hits, Tensor]:
    logits, best = torch.cat([hits.scores for hits in found], -1).topk(top_k, dim=-1)
    ids = torch.cat([hits.ids for hits in found], -1).gather(-1, best)
    return Hits(ids, logits), best // top_k


def _parts(
    views: Sequence[Views], layer: int, query: Tensor, scale: float
) -> Iterator[tuple[list[int], PartialAttention]]:
    """Yield rows, and their attention to memories that they look at together."""
    joint: dict[int, dict[Views, list[int]]] = {}
    for (looked_at, top_k), rows in _jobs(views, layer).items():
        if top_k is not None and len(looked_at) > 1:
            joint.setdefault(top_k, {})[looked_at] = rows
            continue
        [view] = looked_at
        some = query if len(rows) == query.shape[0] else query[rows]
        folded = by_head(some, view.store(layer).num_heads).flatten(1, 2)
        yield rows, unfolded(view.attend(layer, folded, top_k, scale), some)
    for top_k, jobs in joint.items():
        yield from _attend_together(jobs, layer, query, top_k, scale)


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


def by_head(query: Tensor, heads: int) -> Tensor:
    """Group ``query [B, H * G, T, D]`` by key/value head: ``[H, B, n, D]``."""
    return query.reshape(query.shape[0], heads, -1, query.shape[3]).transpose(0, 1)


def unfolded(part: PartialAttention, query: Tensor) -> PartialAttention:
    """Give attention of folded queries ``[H, B * n, D]`` the shape of ``query``."""
    rows, _, _, head_dim = query.shape
    heads = part.out.shape[0]
    out = part.out.reshape(heads, rows, -1, head_dim).transpose(0, 1)
    lse = part.lse.reshape(heads, rows, -1).transpose(0, 1)
    return PartialAttention(out.reshape(query.shape), lse.reshape(query.shape[:-1]))


class _RowsHits(NamedTuple):
    """What a memory has for the rows that look at it."""

    ids: Tensor
    """Shape ``[H, rows, n, K]``."""
    scores: Tensor
    places: dict[int, int]
    """Of the rows."""

    def of(self, rows: list[int]) -> Hits:
        """Fold the hits of some rows: ``[H, rows * n, K]``."""
        chosen = [self.places[row] for row in rows]
        return Hits(*(each[:, chosen].flatten(1, 2) for each in (self.ids, self.scores)))


def _attend_together(
    jobs: Jobs, layer: int, query: Tensor, top_k: int, scale: float
) -> Iterator[tuple[list[int], PartialAttention]]:
    """Attend from rows of ``query [B, H * G, T, D]`` to the best keys of several memories each."""
    grouped = by_head(query, next(iter(jobs))[0].store(layer).num_heads)
    most, head_dim = sum(map(len, jobs.values())), query.shape[3]
    length = block_length(len(grouped) * most, max(map(len, jobs)) * top_k, head_dim)
    parts: dict[Views, list[PartialAttention]] = {looked_at: [] for looked_at in jobs}
    for block in grouped.split(length, dim=2):
        found = _searched(jobs, layer, block, top_k, scale)
        for looked_at, rows in jobs.items():
            hits = [found[view].of(rows) for view in looked_at]
            out, lse = _attend_best(looked_at, layer, hits, top_k, query.dtype)
            whole = (len(rows), -1)
            parts[looked_at].append(
                PartialAttention(out.unflatten(1, whole), lse.unflatten(1, whole))
            )
    for looked_at, rows in jobs.items():
        out, lse = (
            torch.cat(each, 2).flatten(1, 2) for each in zip(*parts[looked_at], strict=True)
        )
        yield rows, unfolded(PartialAttention(out, lse), query[rows])


def _searched(
    jobs: Jobs, layer: int, queries: Tensor, top_k: int, scale: float
) -> dict[MemoryView, _RowsHits]:
    """Search each memory once, with the ``queries [H, B, n, D]`` of all rows that look at it."""
    rows_of: dict[MemoryView, list[int]] = {}
    for looked_at, rows in jobs.items():
        for view in looked_at:
            rows_of.setdefault(view, []).extend(rows)
    found = {}
    for view, rows in rows_of.items():
        hits = view.search(layer, queries[:, rows].flatten(1, 2), top_k, scale)
        ids, scores = (each.unflatten(1, (len(rows), -1)) for each in hits)
        found[view] = _RowsHits(ids, scores, {row: place for place, row in enumerate(rows)})
    return found


def _attend_best(
    views: Views, layer: int, found: Sequence[Hits], top_k: int, dtype: torch.dtype
) -> PartialAttention:
    """Attend to the best of the hits ``[H, Q, K]`` of each memory."""
    (ids, logits), places = _best(found, top_k)
    stores = [view.store(layer) for view in views]
    values = torch.zeros(*ids.shape, stores[0].head_dim, device=ids.device)
    for place, store in enumerate(stores):  # id -1 gives zeros
        values += store.values(ids.where(places == place, -1))
    return topk_attention(logits, values, scale=1.0, dtype=dtype)
