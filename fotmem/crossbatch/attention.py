"""Attention of windows to themselves and to other windows, with gradients for all of them.

The forward pass is the one of inference: parts, merged by log-sum-exp. The backward pass computes
the scores once more, part by part, so that nothing of size ``T x S`` is kept and no window is
copied however many rows attend to it (as in FlashAttention, Dao et al. 2022, arXiv:2205.14135).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    window_mask: Tensor | None = None
    """Bool ``[B, 1, T, T]``: False is hidden in a row's own window, as by a sliding window."""
    context_padding_mask: Tensor | None = None
    """Bool ``[W, S]``: False is padding of a window that others attend to."""
    context_weights: Tensor | None = None
    """``[W]``: how many keys each key of a window that others attend to counts for; default 1."""
    bank_weight: float = 1.0
    """The same, of the bank's keys."""


def crossbatch_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context_keys: Tensor,
    context_values: Tensor,
    sight: Sight,
    bank: tuple[Tensor, Tensor] | None = None,
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
    bank : pair of Tensor, optional
        Keys and values ``[H, N, D]`` that all rows attend to besides.

    Returns
    -------
    Tensor
        Shape ``[B, H * G, T, D]``, in the query's dtype; 0 for padding. Differentiable once, by all
        tensors. Temporaries hold at most `WORKSPACE` elements each, or twice as many as the query.
    """
    inputs = (query, key, value, context_keys, context_values)
    keys, values = (None, None) if bank is None else (bank[0][None], bank[1][None])
    apply: Callable[..., Tensor] = _Crossbatch.apply
    output = apply(*inputs, keys, values, sight)
    if sight.padding_mask is not None:
        output = output.masked_fill(~sight.padding_mask[:, None, :, None], 0)
    return output


class _Inputs(NamedTuple):
    """What is differentiated."""

    query: Tensor
    key: Tensor
    value: Tensor
    context_keys: Tensor
    context_values: Tensor
    bank_keys: Tensor | None  # [1, H, N, D]
    bank_values: Tensor | None


class _Part(NamedTuple):
    """Keys and values that some rows attend to."""

    rows: Tensor  # [R], of the query
    keys: Tensor  # [R, H, n, D]
    values: Tensor
    mask: Tensor | None  # bool, broadcastable to [R, 1, T, n]
    origin: tuple[str, str]  # the inputs they come from
    windows: Tensor  # [R], of the origin
    log_weights: Tensor  # [R], of each key


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
    alike = torch.zeros(rows, dtype=_wide(inputs.query), device=device)
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()[None, None]
    if sight.padding_mask is not None:
        mask = mask & sight.padding_mask[:, None, None]
    if sight.window_mask is not None:
        mask = mask & sight.window_mask
    yield _Part(everyone, inputs.key, inputs.value, mask, ("key", "value"), everyone, alike)
    for place in range(max(map(len, sight.contexts), default=0)):
        looking = [row for row in range(rows) if len(sight.contexts[row]) > place]
        windows = torch.tensor([sight.contexts[row][place] for row in looking], device=device)
        padding, weights = sight.context_padding_mask, sight.context_weights
        yield _Part(
            everyone[looking],
            inputs.context_keys[windows],
            inputs.context_values[windows],
            None if padding is None else padding[windows][:, None, None],
            ("context_keys", "context_values"),
            windows,
            alike[looking] + (0 if weights is None else weights[windows].to(alike).log()),
        )
    if inputs.bank_keys is not None and inputs.bank_values is not None:
        keys, values = (
            bank.expand(rows, -1, -1, -1) for bank in (inputs.bank_keys, inputs.bank_values)
        )
        yield _Part(
            everyone,
            keys,
            values,
            None,
            ("bank_keys", "bank_values"),
            torch.zeros_like(everyone),
            alike + math.log(sight.bank_weight),
        )


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
        weights = part.log_weights[:, None, None]
        lse[part.rows] = found.lse.reshape(-1, *query.shape[1:-1]) + weights
        seen = PartialAttention(out, lse)
        merged = seen if merged is None else merge([merged, seen])
    assert merged is not None
    return merged


def _backward(
    gradient: Tensor, inputs: _Inputs, out: Tensor, lse: Tensor, sight: Sight
) -> list[Tensor | None]:
    query = inputs.query
    wide = _wide(query)
    grads = _Inputs(
        *(None if one is None else torch.zeros_like(one, dtype=wide) for one in inputs)  # type: ignore[arg-type]
    )
    lse = lse[..., None]
    for part in _parts(inputs, sight):
        asked = _Asked(*(_fold(tensor, part) for tensor in (query, gradient, out, lse)))
        asked = asked._replace(lse=asked.lse - part.log_weights[:, None, None, None])
        mask, start = _mask(query, part), 0
        grad_queries = torch.zeros_like(asked.queries, dtype=wide)
        for stop in _stops(asked, part, mask):
            block = slice(start, stop)
            keys, values = (tensor[:, :, block].to(query.dtype) for tensor in part[1:3])
            shown = None if mask is None else mask[..., block]
            differentiate = _kernel if shown is None and query.device.type == "cpu" else _plain
            grad_query, grad_keys, grad_values = differentiate(
                asked, keys, values, shown, sight.scale
            )
            grad_queries += grad_query
            for name, grad in zip(part.origin, (grad_keys, grad_values), strict=True):
                whole: Tensor = getattr(grads, name)
                whole[:, :, block].index_add_(0, part.windows, grad.to(wide))
            start = stop
        grads.query.index_add_(0, part.rows, grad_queries.reshape(-1, *query.shape[1:]))
    return [
        None if grad is None or tensor is None else grad.to(tensor.dtype)
        for grad, tensor in zip(grads, inputs, strict=True)
    ]


class _Asked(NamedTuple):
    """What a part's rows asked, over all parts: ``[R, H, G * T, D]``, and ``1`` for `lse`."""

    queries: Tensor
    gradients: Tensor
    out: Tensor
    lse: Tensor


def _stops(asked: _Asked, part: _Part, mask: Tensor | None) -> Iterable[int]:
    """Cut the keys of a part into blocks that `_plain` has room for; say where each ends."""
    size = part.keys.shape[2]
    if mask is None and asked.queries.device.type == "cpu":
        return [size]
    length = max(1, WORKSPACE // asked.lse.numel())
    return [*range(length, size, length), size]


def _kernel(
    asked: _Asked, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Call the kernel behind `scaled_dot_product_attention`, which takes any log-sum-exp.

    With that of all parts it differentiates one of them (as in ring attention, Liu et al. 2023,
    arXiv:2310.01889).
    """
    queries, gradients, out, lse = asked
    gradient = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grads: tuple[Tensor, Tensor, Tensor] = gradient(
        gradients, queries, keys, values, out, lse.squeeze(-1), 0.0, False, scale=scale
    )
    return grads


def _plain(
    asked: _Asked, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
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


def _wide(tensor: Tensor) -> torch.dtype:
    """Return the dtype to compute in: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


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
