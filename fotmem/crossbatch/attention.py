"""Attention of windows to themselves and to other windows, with gradients for all of them.

The forward pass is that of inference: parts, merged by log-sum-exp. The backward pass computes the
scores again, part by part, as FlashAttention does (Dao et al. 2022, arXiv:2205.14135): nothing of
size ``T x S`` is kept, and no window is copied, however many rows attend to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fotmem.attention import PartialAttention, block_length, dense_attention, merge
from fotmem.crossbatch.pattern import (
    AttentionPattern,
    ContextPart,
    CrossbatchInputs,
    context_parts,
    folded,
    folded_mask,
    wide_dtype,
)


def crossbatch_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    pattern: AttentionPattern,
    bank: tuple[Tensor, Tensor] | None = None,
    memory_query: Tensor | None = None,
    recent_keys: Tensor | None = None,
) -> Tensor:
    """Attend causally to a row's own window and in full to others, in one softmax.

    Parameters
    ----------
    query : Tensor
        Shape ``[B, H * G, T, D]``, positions encoded.
    key, value : Tensor
        Shape ``[B, H, T, D]``, of the own windows, positions encoded.
    context_keys, context_values : Tensor
        Shape ``[W, H, S, D]``, keys as memory holds them (at the first position).
    pattern : AttentionPattern
        Which windows each row attends to.
    bank : pair of Tensor, optional
        Keys and values ``[H, N, D]`` that all rows attend to as well.
    memory_query : Tensor, optional
        Shape of `query`: asks other windows and the bank. Under autocast it may have another dtype,
        because it is not rotated. Default: `query`.
    recent_keys : Tensor, optional
        Shape of `context_keys`: the keys as `query` asks them, of windows that are the text
        directly before another one; see ``pattern.recent``.

    Returns
    -------
    Tensor
        Shape ``[B, H * G, T, D]``, in the query's dtype; 0 for padding. Differentiable once, by all
        tensors. Temporaries hold at most `WORKSPACE` elements each, or twice as many as the query.
    """
    memory_query = query if memory_query is None else memory_query.to(query.dtype)
    inputs = (query, memory_query, key, value, context_keys, context_values, recent_keys)
    keys, values = (None, None) if bank is None else (bank[0][None], bank[1][None])
    apply: Callable[..., Tensor] = _CrossbatchFunction.apply
    output = apply(*inputs, keys, values, pattern)
    if pattern.padding_mask is not None:
        output = output.masked_fill(~pattern.padding_mask[:, None, :, None], 0)
    return output


class _CrossbatchFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, pattern = given
        inputs = CrossbatchInputs(*tensors)
        with torch.autocast(inputs.query.device.type, enabled=False):
            out, lse = _forward(inputs, pattern)
        ctx.pattern = pattern
        ctx.save_for_backward(*inputs, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        *tensors, out, lse = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            return *_backward(gradient, CrossbatchInputs(*tensors), out, lse, ctx.pattern), None


def _forward(inputs: CrossbatchInputs, pattern: AttentionPattern) -> PartialAttention:
    query = inputs.query
    merged: PartialAttention | None = None
    for part in context_parts(inputs, pattern):
        found = dense_attention(
            folded(getattr(inputs, part.asked), part),
            part.keys,
            part.values,
            scale=pattern.scale,
            mask=folded_mask(query, part),
        )
        out = found.out.new_zeros(query.shape)
        lse = found.lse.new_full(query.shape[:-1], -torch.inf)
        out[part.rows] = found.out.reshape(-1, *query.shape[1:])
        weights = part.log_weights[:, None, None]
        lse[part.rows] = found.lse.reshape(-1, *query.shape[1:-1]) + weights
        seen = PartialAttention(out, lse)
        merged = seen if merged is None else merge([merged, seen])
    assert merged is not None
    return merged


def _backward(
    gradient: Tensor, inputs: CrossbatchInputs, out: Tensor, lse: Tensor, pattern: AttentionPattern
) -> list[Tensor | None]:
    query = inputs.query
    wide = wide_dtype(query)
    grads = CrossbatchInputs(
        *(None if one is None else torch.zeros_like(one, dtype=wide) for one in inputs)  # type: ignore[arg-type]
    )
    lse = lse[..., None]
    for part in context_parts(inputs, pattern):
        queries = getattr(inputs, part.asked)
        asked = _Queries(*(folded(tensor, part) for tensor in (queries, gradient, out, lse)))
        asked = asked._replace(lse=asked.lse - part.log_weights[:, None, None, None])
        mask, start = folded_mask(query, part), 0
        grad_queries = torch.zeros_like(asked.queries, dtype=wide)
        for stop in _stops(asked, part, mask):
            block = slice(start, stop)
            keys, values = (
                tensor[:, :, block].to(query.dtype) for tensor in (part.keys, part.values)
            )
            shown = None if mask is None else mask[..., block]
            differentiate = _kernel if shown is None and query.device.type == "cpu" else _plain
            grad_query, grad_keys, grad_values = differentiate(
                asked, keys, values, shown, pattern.scale
            )
            grad_queries += grad_query
            for name, grad in zip(part.origin, (grad_keys, grad_values), strict=True):
                whole: Tensor = getattr(grads, name)
                whole[:, :, block].index_add_(0, part.windows, grad.to(wide))
            start = stop
        whole = getattr(grads, part.asked)
        whole.index_add_(0, part.rows, grad_queries.reshape(-1, *query.shape[1:]))
    return [
        None if grad is None or tensor is None else grad.to(tensor.dtype)
        for grad, tensor in zip(grads, inputs, strict=True)
    ]


class _Queries(NamedTuple):
    """Queries of some rows, and what all parts answered: ``[R, H, G * T, D or 1]``."""

    queries: Tensor
    gradients: Tensor
    out: Tensor
    lse: Tensor


def _stops(asked: _Queries, part: ContextPart, mask: Tensor | None) -> Iterable[int]:
    """Cut the keys of a part into blocks that fit `_plain`'s workspace; return their ends."""
    size = part.keys.shape[2]
    if mask is None and asked.queries.device.type == "cpu":
        return [size]
    length = block_length(asked.lse.numel())
    return [*range(length, size, length), size]


def _kernel(
    asked: _Queries, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the kernel behind `scaled_dot_product_attention`, which takes any log-sum-exp.

    Given the log-sum-exp of all parts, it differentiates one part (as in ring attention, Liu et al.
    2023, arXiv:2310.01889).
    """
    queries, gradients, out, lse = asked
    gradient = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grads: tuple[Tensor, Tensor, Tensor] = gradient(
        gradients, queries, keys, values, out, lse.squeeze(-1), 0.0, False, scale=scale
    )
    return grads


def _plain(
    asked: _Queries, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    queries, gradients, out = (tensor.to(asked.lse.dtype) for tensor in asked[:3])
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    scores = queries @ keys.transpose(2, 3) * scale  # [R, H, G * T, n]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    lowest = torch.finfo(scores.dtype).min  # of padding, which sees nothing
    weights = (scores - asked.lse.clamp(min=lowest)).exp()
    delta = (gradients * out).sum(-1, keepdim=True)
    grad_scores = weights * (gradients @ values.transpose(2, 3) - delta) * scale
    return (
        grad_scores @ keys,
        grad_scores.transpose(2, 3) @ queries,
        weights.transpose(2, 3) @ gradients,
    )
