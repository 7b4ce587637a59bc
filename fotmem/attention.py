"""Partial attention over a part of the keys, and how parts are merged.

Shapes, here and everywhere: ``B`` batch rows, ``H`` key/value heads, ``G`` query heads per
key/value head, ``T`` tokens of a window, ``Q`` queries of one head (``G * T`` folded), ``N``
remembered tokens, ``K`` hits per query, ``D`` head dimension.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "WORKSPACE",
    "PartialAttention",
    "block_length",
    "causal_attention",
    "converted_length",
    "dense_attention",
    "merge",
    "topk_attention",
]

WORKSPACE = 2**22
"""Elements of the largest temporary of blocked attention and search (16 MiB of float32)."""
CONVERTED = 2**19
"""Elements that a CPU converts to float32 at a time: they stay in the caches of a core."""


def block_length(*sizes: int) -> int:
    """Count how many rows fit into `WORKSPACE`, at least 1; sizes multiply to those of a row.

    Examples
    --------
    >>> block_length(8, 128)
    4096
    """
    return max(1, WORKSPACE // max(1, math.prod(sizes)))


def converted_length(keys: Tensor) -> int:
    """Count how many of keys ``[..., N, D]`` to convert to float32 at a time, at least 1."""
    most = min(CONVERTED, WORKSPACE) if keys.is_cpu else WORKSPACE
    return max(1, most * keys.shape[-2] // max(1, keys.numel()))


class PartialAttention(NamedTuple):
    """The attention of some queries over one part of their keys.

    `merge` joins parts over disjoint keys; the result equals one softmax over all of them.
    """

    out: Tensor
    """Shape ``[..., Q, D]``: the softmax-weighted mean of this part's values; 0 where empty."""
    lse: Tensor
    """Shape ``[..., Q]``, float32: log of the summed ``exp(score * scale)``; -inf where empty.

    Float64 where the queries are.
    """


def merge(partials: Sequence[PartialAttention]) -> PartialAttention:
    """Join attentions over disjoint sets of keys into the attention over their union.

    Parameters
    ----------
    partials : sequence of PartialAttention
        At least one, all of the same shapes.

    Returns
    -------
    PartialAttention
        The attention over all keys, computed in float32, ``out`` in the dtype of the first part.
        Queries without a key in any part get 0 and -inf.

    Examples
    --------
    >>> import torch
    >>> one = PartialAttention(torch.tensor([[1.0]]), torch.tensor([0.0]))
    >>> two = PartialAttention(torch.tensor([[4.0]]), torch.tensor([2.0]).log())
    >>> merge([one, two]).out.round(decimals=4)
    tensor([[3.]])
    """
    if len(partials) == 1:
        return partials[0]
    lses = torch.stack([part.lse for part in partials])
    # A query without any key has lse -inf everywhere, and -inf minus -inf is NaN.
    top = lses.detach().amax(0).clamp(min=torch.finfo(lses.dtype).min)
    # Divided by their sum, not by exp(lse): that rounds by more than 1 where scores are huge.
    weights = (lses - top).exp()
    total = weights.sum(0)
    weights = weights / total.clamp(min=torch.finfo(lses.dtype).tiny)
    outs = torch.stack([part.out.to(lses.dtype) for part in partials])
    out = (outs * weights[..., None]).sum(0).to(partials[0].out.dtype)
    return PartialAttention(out, top + total.log())


def dense_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, scale: float, mask: Tensor | None = None
) -> PartialAttention:
    """Attend to all keys in blocks, without a tensor of ``Q x N`` scores.

    Parameters
    ----------
    queries : Tensor
        Shape ``[B, H, Q, D]``, floating point.
    keys, values : Tensor
        Shape ``[B, H, N, D]``. Their dtype may differ from that of the queries.
    scale : float
        Factor of the inner products, usually ``1 / sqrt(D)``.
    mask : Tensor, optional
        Broadcastable to ``[B, H, Q, N]``. Boolean: True where a query attends. Floating point:
        added to the scaled inner products.

    Returns
    -------
    PartialAttention
        ``out [B, H, Q, D]`` in the queries' dtype, and ``lse [B, H, Q]``. No temporary has more
        than `WORKSPACE` elements, or twice as many as ``out``.
    """
    if mask is None and queries.device.type == "cpu":
        return _flash(queries, keys, values, scale)
    if mask is not None:
        mask = mask.expand(*queries.shape[:3], keys.shape[2])
    length = block_length(4096, *queries.shape[:2])
    parts = [
        _blocked(
            queries[:, :, start : start + length],
            keys,
            values,
            scale,
            None if mask is None else mask[:, :, start : start + length],
        )
        for start in range(0, queries.shape[2], length)
    ]
    return _concatenate(parts, queries)


def causal_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, scale: float
) -> PartialAttention:
    """Attend causally within a window (``Q == N``).

    Shapes and result are those of `dense_attention`.
    """
    if queries.device.type == "cpu":
        return _kernel(queries, keys, values, scale, is_causal=True)
    length = queries.shape[2]
    mask = torch.ones(length, length, dtype=torch.bool, device=queries.device).tril()
    return dense_attention(queries, keys, values, scale=scale, mask=mask)


def topk_attention(
    scores: Tensor, values: Tensor, *, scale: float, dtype: torch.dtype
) -> PartialAttention:
    """Attend to ``K`` hits per query, given their scores.

    Parameters
    ----------
    scores : Tensor
        Shape ``[H, Q, K]``, float32, unscaled; -inf where there is no hit.
    values : Tensor
        Shape ``[H, Q, K, D]``.
    scale : float
        Factor of the scores.
    dtype : torch.dtype
        Dtype of ``out``.
    """
    scaled = scores * scale
    weights = scaled.softmax(-1).nan_to_num(0.0)  # NaN: a query without any hit
    out = (weights[..., None, :] @ values.float()).squeeze(-2)
    return PartialAttention(out.to(dtype), scaled.logsumexp(-1))


def _flash(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> PartialAttention:
    if keys.dtype == queries.dtype and values.dtype == queries.dtype:
        return _kernel(queries, keys, values, scale, is_causal=False)
    # In float32, so that no digits are lost; block by block, so that memory stays bounded.
    queries32 = queries.float()
    length = converted_length(keys)
    merged = no_attention(queries, dtype=torch.float32)
    for start in range(0, keys.shape[2], length):
        stop = start + length
        block = _kernel(
            queries32, keys[:, :, start:stop], values[:, :, start:stop], scale, is_causal=False
        )
        merged = merge([merged, block])
    return PartialAttention(merged.out.to(queries.dtype), merged.lse)


def _kernel(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, *, is_causal: bool
) -> PartialAttention:
    """Call the CPU kernel of `scaled_dot_product_attention`, which also returns the lse."""
    if queries.shape[2] == 0 or keys.shape[2] == 0:
        return no_attention(queries)
    out, lse = torch._scaled_dot_product_flash_attention_for_cpu(
        _dense_rows(queries),
        _dense_rows(keys.to(queries.dtype)),
        _dense_rows(values.to(queries.dtype)),
        is_causal=is_causal,
        scale=scale,
    )
    return PartialAttention(out, lse)


def _dense_rows(tensor: Tensor) -> Tensor:
    """Copy unless rows are dense and do not overlap: the kernel itself does not check this."""
    dense = tensor.stride(-1) == 1 and tensor.stride(-2) >= tensor.shape[-1]
    return tensor if dense else tensor.contiguous()


def _blocked(
    queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None
) -> PartialAttention:
    heads, head_dim = queries.shape[0] * queries.shape[1], queries.shape[3]
    length = block_length(heads, max(queries.shape[2], head_dim))
    top = _no_keys(queries)[..., None]
    wide = queries.to(top.dtype) * scale
    if keys.dtype != wide.dtype:
        length = min(length, converted_length(keys))
    total = torch.zeros_like(top)
    out = torch.zeros_like(wide)
    for start in range(0, keys.shape[2], length):
        stop = start + length
        scores = wide @ keys[:, :, start:stop].to(wide.dtype).transpose(2, 3)  # [B, H, Q, n]
        if mask is not None:
            block = mask[..., start:stop]
            hidden = block.dtype == torch.bool
            scores = scores.masked_fill(~block, -torch.inf) if hidden else scores + block
        highest = torch.maximum(top, scores.amax(-1, keepdim=True))
        finite = highest.clamp(min=torch.finfo(highest.dtype).min)  # nothing seen so far: avoid NaN
        weights = (scores - finite).exp()
        shrink = (top - finite).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        out = out * shrink + weights @ values[:, :, start:stop].to(wide.dtype)
        top = highest
    out = (out / total.clamp(min=torch.finfo(total.dtype).tiny)).to(queries.dtype)
    return PartialAttention(out, (top + total.log()).squeeze(-1))


def _concatenate(parts: list[PartialAttention], queries: Tensor) -> PartialAttention:
    if not parts:
        return no_attention(queries)
    if len(parts) == 1:
        return parts[0]
    return PartialAttention(
        torch.cat([part.out for part in parts], 2), torch.cat([part.lse for part in parts], 2)
    )


def no_attention(queries: Tensor, dtype: torch.dtype | None = None) -> PartialAttention:
    """Return the attention of queries ``[..., Q, D]`` to no key; ``out`` in `dtype` or theirs."""
    return PartialAttention(torch.zeros_like(queries, dtype=dtype), _no_keys(queries))


def _no_keys(queries: Tensor) -> Tensor:
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return torch.full(queries.shape[:-1], -torch.inf, dtype=dtype, device=queries.device)
