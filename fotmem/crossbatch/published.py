"""The two published forms of crossbatch: which windows attend to which."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fotmem.crossbatch.attention import crossbatch_attention
from fotmem.crossbatch.pattern import AttentionPattern, documents
from fotmem.crossbatch.rotary import positions, rotate
from fotmem.crossbatch.shapes import check_bank, check_current, check_previous
from fotmem.errors import OptionError


def longllama(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    context_range: int,
    packing: int,
    stepping: bool,
    rope_theta: float | None = 10000.0,
    padding_mask: Tensor | None = None,
    bank: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attend as LongLLaMA was trained: each batch entry attends to those before it.

    Each document fills `packing` consecutive entries. Entry ``b`` attends to itself causally and to
    entries ``b-1 ... b-context_range`` in full: the nearer ones are earlier windows of its document
    (positives), the others belong to other documents (negatives).

    Parameters
    ----------
    query : Tensor
        Shape ``[B, T, H * G, D]``, positions not yet encoded. Query heads ``h * G`` to
        ``h * G + G - 1`` share key/value head ``h``.
    key, value : Tensor
        Shape ``[B, T, H, D]``.
    context_range : int
        How many other entries ``R`` are attended to at most; at least 1.
    packing : int
        Entries per document, a divisor of ``B``.
    stepping : bool
        Whether entry ``i`` of a document sees only ``min(i * ceil((R + 1) / (packing - 1)) + 1,
        R + 1)`` entries, itself included. Without effect where `packing` is 1.
    rope_theta : float or None
        Base of rotary positions, in LLaMA's half-split layout; None: no positions. Keys of other
        entries are not rotated.
    padding_mask : Tensor, optional
        Bool ``[B, T]``: False is padding, which no query attends to.
    bank : pair of Tensor, optional
        Keys and values ``[N, H, D]`` of earlier windows, further negatives for all entries (Wang
        et al. 2020, "Cross-Batch Memory for Embedding Learning", arXiv:1912.06798).

    Returns
    -------
    Tensor
        Shape ``[B, T, H * G, D]``, differentiable.

    Raises
    ------
    ShapeError, OptionError

    References
    ----------
    Tworkowski et al. 2023, "Focused Transformer", arXiv:2307.03170, and its released code.
    """
    check_current(query, key, value, padding_mask)
    rows = query.shape[0]
    if context_range < 1:
        raise OptionError(f"context_range must be at least 1, got {context_range}")
    if packing < 1 or rows % packing:
        raise OptionError(f"packing must divide the batch of {rows}, got {packing}")
    contexts = [
        range(row - 1, row - _reach(row, context_range, packing, stepping), -1)
        for row in range(rows)
    ]
    return _attend(
        (query, key, value), (key, value), contexts, rope_theta, padding_mask, padding_mask, bank
    )


def paper(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    previous_key: Tensor,
    previous_value: Tensor,
    *,
    d: int,
    rope_theta: float | None = 10000.0,
    padding_mask: Tensor | None = None,
    previous_padding_mask: Tensor | None = None,
    bank: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attend as the paper trains: to the row's own previous window and to those of other documents.

    Every document gives a current and a previous window. Row ``b`` attends to its current window
    causally, and in full to the previous windows of documents ``b, b+1, ... b+d-1`` (modulo ``B``):
    the first is the positive, the others are negatives.

    Parameters
    ----------
    query : Tensor
        Shape ``[B, T, H * G, D]``, of current windows, positions not yet encoded.
    key, value : Tensor
        Shape ``[B, T, H, D]``, of current windows.
    previous_key, previous_value : Tensor
        Shape ``[B, S, H, D]``, of previous windows; keys are not rotated.
    d : int
        How many previous windows are attended to, from 1 (positives only) to ``B``; 0: none.
    rope_theta, padding_mask, bank
        As in `longllama`; `padding_mask` is of the current windows.
    previous_padding_mask : Tensor, optional
        Bool ``[B, S]``, of the previous windows.

    Returns
    -------
    Tensor
        Shape ``[B, T, H * G, D]``, differentiable.

    Raises
    ------
    ShapeError, OptionError

    References
    ----------
    Tworkowski et al. 2023, "Focused Transformer", arXiv:2307.03170, section 3.2.
    """
    check_current(query, key, value, padding_mask)
    check_previous(key, (previous_key, previous_value), previous_padding_mask)
    return _attend(
        (query, key, value),
        (previous_key, previous_value),
        documents(len(key), d),
        rope_theta,
        padding_mask,
        previous_padding_mask,
        bank,
    )


def _reach(row: int, context_range: int, packing: int, stepping: bool) -> int:
    """Count the entries that an entry attends to, itself included."""
    most = context_range + 1
    if stepping and packing > 1:
        most = min(row % packing * math.ceil(most / (packing - 1)) + 1, most)
    return min(most, row + 1)


def _attend(
    current: tuple[Tensor, Tensor, Tensor],
    context: tuple[Tensor, Tensor],
    contexts: Sequence[Sequence[int]],
    rope_theta: float | None,
    padding_mask: Tensor | None,
    context_padding_mask: Tensor | None,
    bank: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Encode positions, attend, and return ``[B, T, H * G, D]``."""
    query, key, value = current
    if bank is not None:
        check_bank(key, bank)
        bank = (bank[0].transpose(0, 1), bank[1].transpose(0, 1))
    if rope_theta is not None:
        places = positions(key, padding_mask)
        query, key = (rotate(tensor, places, rope_theta) for tensor in (query, key))
    pattern = AttentionPattern(
        contexts=contexts,
        scale=query.shape[3] ** -0.5,
        padding_mask=padding_mask,
        context_padding_mask=context_padding_mask,
    )
    heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value, *context)]
    query, key, value, context_keys, context_values = heads_first
    output = crossbatch_attention(query, key, value, context_keys, context_values, pattern, bank)
    return output.transpose(1, 2)
