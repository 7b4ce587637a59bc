"""Attention of windows to themselves and to other windows, with gradients for all of them.

The forward pass is the one of inference: parts, merged by log-sum-exp. The backward pass computes
the scores once more, part by part, so that nothing of size ``T x S`` is kept and no window is
copied however many rows attend to it (as in FlashAttention, Dao et al. 2022, arXiv:2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fotmem.attention import WORKSPACE, PartialAttention, dense_attention, merge


@dataclass(frozen=True)
class Sight:
    """What each row of a batch looks at besides its own window, and what is padding."""

    contexts: Sequence[Sequence[int]]
    """Per row: indices of the windows it attends to in full."""
    scale: float
    """Factor of the inner products, usually ``1 / sqrt(D)``."""
    padding_mask: Tensor | None = None
    """Bool ``[B, T]``: False is padding of a row's own window."""
    context_padding_mask: Tensor | None = None
    """Bool ``[W, S]``: False is padding of a window that others attend to."""
    bank: tuple[Tensor, Tensor] | None = None
    """Keys and values ``[H, N, D]`` that every row attends to; they get no gradient."""


def crossbatch_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    sight: Sight,
) -> Tensor:
    """Attend causally to the own window and fully to others, in one softmax.

    Parameters
    ----------
    query : Tensor
        Shape ``[B, H * G, T, D]``, positions encoded.
    key, value : Tensor
        Shape ``[B, H, T, D]``, of the own windows, positions encoded.
    context_keys, context_values : Tensor
        Shape ``[W, H, S, D]``, keys as memory holds them (at the first position).
    sight : Sight
        Who looks at what.

    Returns
    -------
    Tensor
        Shape ``[B, H * G, T, D]``, in the query's dtype; 0 for padding. Differentiable once, by all
        five tensors. Temporaries hold at most `fotmem.WORKSPACE` elements each, or twice as many
        as the query.
    """
    inputs = (query, key, value, context_keys, context_values)
    output: Tensor = _Crossbatch.apply(*inputs, sight)  # type: ignore[no-untyped-call]
    return output


class _Inputs(NamedTuple):
    """What is differentiated."""

    query: Tensor
    key: Tensor
    value: Tensor
    context_keys: Tensor
    context_values: Tensor


class _Part(NamedTuple):
    """Keys and values that some rows attend to."""

    rows: Tensor  # [R], of the query
    keys: Tensor  # [R, H, n, D]
    values: Tensor
    mask: Tensor | None  # bool, broadcastable to [R, 1, T, n]
    origin: tuple[str, str] | None  # the inputs they come from; None: no gradient
    windows: Tensor  # [R], of the origin


class _Crossbatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, sight = given
        inputs = _Inputs(*tensors)
        with torch.autocast(inputs.query.device.type, enabled=False):
            out, lse = _forward(inputs, sight)
        ctx.sight = sight
        ctx.save_for_backward(*inputs, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        *tensors, out, lse = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            return *_backward(gradient, _Inputs(*tensors), out, lse, ctx.sight), None


def _parts(inputs: _Inputs, sight: Sight) -> Iterator[_Part]:
    """List what is attended to: the own window, the other windows one at a time, the bank."""
    rows, tokens, device = inputs.query.shape[0], inputs.query.shape[2], inputs.query.device
    everyone = torch.arange(rows, device=device)
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()[None, None]
    if sight.padding_mask is not None:
        mask = mask & sight.padding_mask[:, None, None]
    yield _Part(everyone, inputs.key, inputs.value, mask, ("key", "value"), everyone)
    for place in range(max(map(len, sight.contexts), default=0)):
        looking = [row for row in range(rows) if len(sight.contexts[row]) > place]
        windows = torch.tensor([sight.contexts[row][place] for row in looking], device=device)
        padding = sight.context_padding_mask
        yield _Part(
            everyone[looking],
            inputs.context_keys[windows],
            inputs.context_values[windows],
            None if padding is None else padding[windows][:, None, None],
            ("context_keys", "context_values"),
            windows,
        )
    if sight.bank is not None:
        keys, values = (tensor.expand(rows, *tensor.shape) for tensor in sight.bank)
        yield _Part(everyone, keys, values, None, None, everyone)


def _forward(inputs: _Inputs, sight: Sight) -> PartialAttention:
    query = inputs.query
    merged: PartialAttention | None = None
    for part in _parts(inputs, sight):
        found = dense_attention(
            _fold(query, part), part.keys, part.values, scale=sight.scale, mask=_mask(query, part)
        )
        out = found.out.new_zeros(query.shape)
        lse = found.lse.new_full(query.shape[:-1], -torch.inf)
        out[part.rows] = found.out.reshape(-1, *query.shape[1:])
        lse[part.rows] = found.lse.reshape(-1, *query.shape[1:-1])
        seen = PartialAttention(out, lse)
        merged = seen if merged is None else merge([merged, seen])
    assert merged is not None
    return merged


def _backward(
    gradient: Tensor, inputs: _Inputs, out: Tensor, lse: Tensor, sight: Sight
) -> list[Tensor]:
    wide = torch.promote_types(inputs.query.dtype, torch.float32)
    query, gradient = inputs.query.to(wide), gradient.to(wide)
    delta = (gradient * out.to(wide)).sum(-1, keepdim=True)  # [B, H * G, T, 1]
    lse = lse.clamp(min=torch.finfo(lse.dtype).min)[..., None]  # padding sees nothing
    grads = _Inputs(*(torch.zeros_like(tensor, dtype=wide) for tensor in inputs))
    for part in _parts(inputs, sight):
        queries, gradients, deltas, lses = (
            _fold(tensor, part) for tensor in (query, gradient, delta, lse)
        )
        mask = _mask(query, part)
        grad_queries = torch.zeros_like(queries)
        length = max(1, WORKSPACE // (queries.numel() // queries.shape[-1]))
        for start in range(0, part.keys.shape[2], length):
            block = slice(start, start + length)
            keys, values = part.keys[:, :, block].to(wide), part.values[:, :, block].to(wide)
            scores = queries @ keys.transpose(2, 3) * sight.scale  # [R, H, G * T, n]
            if mask is not None:
                scores = scores.masked_fill(~mask[..., block], -torch.inf)
            weights = (scores - lses).exp()
            grad_scores = weights * (gradients @ values.transpose(2, 3) - deltas) * sight.scale
            grad_queries += grad_scores @ keys
            if part.origin is not None:
                grad_keys, grad_values = (getattr(grads, name)[:, :, block] for name in part.origin)
                grad_keys.index_add_(0, part.windows, grad_scores.transpose(2, 3) @ queries)
                grad_values.index_add_(0, part.windows, weights.transpose(2, 3) @ gradients)
        grads.query.index_add_(0, part.rows, grad_queries.reshape(-1, *query.shape[1:]))
    return [grad.to(tensor.dtype) for grad, tensor in zip(grads, inputs, strict=True)]


def _fold(tensor: Tensor, part: _Part) -> Tensor:
    """Choose rows of ``[B, H * G, T, n]`` and fold grouped queries: ``[R, H, G * T, n]``."""
    rows, heads = part.keys.shape[:2]
    return tensor[part.rows].reshape(rows, heads, -1, tensor.shape[-1])


def _mask(query: Tensor, part: _Part) -> Tensor | None:
    """Fold a part's mask as its queries: ``[R, 1, G * T, n]``."""
    if part.mask is None:
        return None
    rows, heads = part.keys.shape[:2]
    groups = query.shape[1] // heads
    return part.mask.expand(rows, 1, query.shape[2], -1).repeat(1, 1, groups, 1)
