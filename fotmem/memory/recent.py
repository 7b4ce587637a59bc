"""Attention to the last remembered tokens, which keep their positions before the local context.

As in InfLLM (Xiao et al. 2024, arXiv:2402.04617): nearby tokens have their own positions, all
others the same one. Shapes as in `fotmem.attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fotmem.attention import PartialAttention, dense_attention, no_attention
from fotmem.memory.attached import AttachedModel
from fotmem.memory.attend_memories import by_head, unfolded
from fotmem.memory.cache import MemoryCache
from fotmem.memory.contents import looked_up
from fotmem.memory.view import MemoryView
from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.store import MemoryStore

Views = tuple[MemoryView, ...]


class _Recent(NamedTuple):
    """Recent tokens of one store."""

    keys: Tensor
    """Shape ``[H, n, D]``, not rotated."""
    values: Tensor
    positions: Tensor
    """Shape ``[n]``: -1 is directly before the local context."""


def far_ids(store: MemoryStore, recent: int) -> IdRanges | None:
    """Return the ids of a store without its recent tokens; None: all."""
    if not recent:
        return None
    return IdRanges([(store.first_id, max(store.first_id, store.next_id - recent))])


def attend_to_recent(
    cache: MemoryCache, views: Sequence[Views], layer: int, query: Tensor
) -> PartialAttention | None:
    """Attend to the recent tokens of each row, if there are any.

    Parameters
    ----------
    cache : MemoryCache
    views : sequence of tuple of MemoryView
        The memories that each row looks at.
    layer : int
    query : Tensor
        Shape ``[B, H * G, T, D]``, at its positions in the local context.
    """
    total: PartialAttention | None = None
    overflow = cache.memory_layer(layer).overflow
    for (looked_at, moved), rows in _rows_by_what_they_see(views, overflow).items():
        found = [_of_memory(view, layer) for view in looked_at if view.recent]
        if moved is not None:
            found.append(_of_overflow(moved, cache.options(rows[0]).recent))
        found = [each for each in found if len(each.positions)]
        if found:
            total = no_attention(query) if total is None else total
            total.out[rows], total.lse[rows] = _attend(cache.attached, found, layer, query[rows])
    return total


def recent_logits(
    attached: AttachedModel, view: MemoryView, layer: int, query: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ids ``[n]`` of the recent tokens of a memory, and their logits ``[H, Q, n]``.

    Parameters
    ----------
    attached : AttachedModel
    view : MemoryView
    layer : int
    query : Tensor
        Shape ``[H, Q, D]``, at its positions in the local context.
    """
    recent = _of_memory(view, layer)
    heads, _, scale = attached.geometry(layer)
    if not len(recent.positions):
        return recent.positions, query.new_zeros(heads, query.shape[1], 0)
    keys = _rotated(attached, recent, layer, query)[0]
    logits = query.float() @ keys.float().transpose(1, 2) * scale
    return view.recent_ids(layer), logits


def _rows_by_what_they_see(
    views: Sequence[Views], overflow: Sequence[MemoryStore]
) -> dict[tuple[Views, MemoryStore | None], list[int]]:
    rows_of: dict[tuple[Views, MemoryStore | None], list[int]] = {}
    for row, looked_at in enumerate(views):
        rows_of.setdefault((looked_at, overflow[row] if overflow else None), []).append(row)
    return rows_of


def _of_memory(view: MemoryView, layer: int) -> _Recent:
    ids = view.recent_ids(layer)
    store = view.store(layer)
    return _Recent(*looked_up(store, ids.to(store.device)), view.recent_positions(len(ids)))


def _of_overflow(store: MemoryStore, recent: int) -> _Recent:
    ids = torch.arange(max(store.first_id, store.next_id - recent), store.next_id)
    return _Recent(*looked_up(store, ids.to(store.device)), ids - store.next_id)


def _attend(
    attached: AttachedModel, found: Sequence[_Recent], layer: int, query: Tensor
) -> PartialAttention:
    """Attend from some rows ``[R, H * G, T, D]`` to the same tokens."""
    heads, _, scale = attached.geometry(layer)
    keys, values = (
        torch.cat([each.to(query) for each in some], 2)
        for some in (
            [_rotated(attached, each, layer, query) for each in found],
            [each.values[None] for each in found],
        )
    )
    folded = by_head(query, heads).flatten(1, 2)
    out, lse = dense_attention(folded[None], keys, values, scale=scale)
    return unfolded(PartialAttention(out[0], lse[0]), query)


def _rotated(attached: AttachedModel, recent: _Recent, layer: int, query: Tensor) -> Tensor:
    """Return the keys at their positions: ``[1, H, n, D]``, on the device of the queries."""
    keys, positions = recent.keys[None].to(query), recent.positions[None].to(query.device)
    return attached.adapters[layer].at_positions(keys, attached.decoder, positions)
