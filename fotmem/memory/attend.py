"""What a memory layer runs instead of its own forward: it attends to parts, and merges.

The parts are the local context, the overflow of the batch row, the memories of the row, and the
recent tokens of these two. Shapes as in `fotmem.attention`, which has the arithmetic of a part and
the merging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fotmem.attention import PartialAttention, causal_attention, dense_attention, merge
from fotmem.errors import UnsupportedError
from fotmem.memory.attached import AttachedModel
from fotmem.memory.attend_memories import attend_to_memories
from fotmem.memory.cache import MemoryCache, StopForward
from fotmem.memory.decay import scale_and_bias
from fotmem.memory.gradients import without_gradient
from fotmem.memory.layer_proof import prove_keys
from fotmem.memory.recent import attend_to_recent, far_ids
from fotmem.memory.trace import TracedLayer
from fotmem.models.model_parts import cache_argument
from fotmem.models.positions import rotated


def attention_forward(
    attached: AttachedModel,
    layer: int,
    plain_forward: Callable[..., Any],
    attention: nn.Module,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Tensor | None = None,
    past_key_values: MemoryCache | None = None,
    *,
    cache: MemoryCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Run one memory layer's attention to all parts, in one softmax."""
    cache = past_key_values if cache is None else cache
    if not isinstance(cache, MemoryCache) or not cache.in_call:
        raise _refusal(attached, attention)
    adapter, local = attached.adapters[layer], cache.memory_layer(layer)
    call = _plain_call(plain_forward, attention, hidden_states, attention_mask, **kwargs)
    query, asked, key, value, stored = _project(
        attached, layer, hidden_states, position_embeddings, call
    )
    local.remember(stored)
    key, value = cache.update(key, value, layer)
    if cache.reading:
        local.queries = asked
        if layer == attached.layers[-1]:
            raise StopForward

    _, _, scale = adapter.geometry(attention)
    views = cache.looked_at()
    remote = (
        attend_to_memories(views, layer, asked, scale),
        _overflow(cache, layer, asked, scale),
        attend_to_recent(cache, views, layer, query),
    )
    parts = [part for part in remote if part is not None]
    if not parts:
        output = adapter.attend(attention, query, key, value, attention_mask, **kwargs)
        return adapter.project_out(attention, output), None
    out, lse = merge([*parts, local_attention(query, key, value, attention_mask, scale)])
    if cache.trace is not None:
        traced = (asked, query, lse)
        cache.trace.layers[layer] = TracedLayer(*(each.detach() for each in traced))
    return adapter.project_out(attention, without_gradient(out).transpose(1, 2).flatten(2)), None


def _project(
    attached: AttachedModel,
    layer: int,
    hidden_states: Tensor,
    position_embeddings: Any,
    plain_call: Callable[[Any, Any], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return a window's query, its query for memory, key, value, and the key for a store."""
    adapter, options = attached.adapters[layer], attached.options
    query, key, value = adapter.project(attached.attention(layer), hidden_states)
    if not options.positionals:
        return query, attached.sharpened(layer, query), key, value, key
    stored = adapter.at_first_position(key, attached.decoder)
    query, asked, key = rotated(
        adapter, attached.decoder, query, key, position_embeddings, options.distance
    )
    if layer in attached.unproven:
        prove_keys(attached, layer, key, stored, position_embeddings, plain_call)
    return query, attached.sharpened(layer, asked), key, value, stored


def _overflow(
    cache: MemoryCache, layer: int, query: Tensor, scale: float
) -> PartialAttention | None:
    """Attend from each batch row to its own overflow, if any row has some."""
    stores = cache.memory_layer(layer).overflow
    if not any(len(store) for store in stores):
        return None
    parts = []
    for row, store in enumerate(stores):
        queries = query[row].reshape(store.num_heads, -1, query.shape[3])  # [H, G * T, D]
        options = cache.options(row)
        factor, bias = scale_and_bias(store, layer, scale, options)
        far, top_k = far_ids(store, options.recent), options.top_k
        parts.append(store.attend(queries, top_k=top_k, scale=factor, bias=bias, among=far))
    out = torch.stack([part.out for part in parts]).reshape(query.shape)
    lse = torch.stack([part.lse for part in parts]).reshape(query.shape[:-1])
    return PartialAttention(out, lse)


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> PartialAttention:
    """Attend to the local context, with the log-sum-exp that merging needs.

    ``mask [B, 1 or H * G, T, n]`` is the decoder's own: it also hides what a sliding window hides.
    None: plain causal attention.
    """
    key, value = key.to(query.dtype), value.to(query.dtype)
    rows, query_heads, tokens, head_dim = query.shape
    length, groups = key.shape[2], query_heads // key.shape[1]
    if tokens == length and mask is None:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
        return causal_attention(query, key, value, scale=scale)
    if mask is None and tokens > 1:
        mask = torch.ones(1, 1, tokens, length, dtype=torch.bool).tril(length - tokens)
    if mask is not None:
        mask = _folded_mask(mask.to(query.device), groups)
    folded = query.reshape(rows, key.shape[1], groups * tokens, head_dim)
    out, lse = dense_attention(folded, key, value, scale=scale, mask=mask)
    return PartialAttention(out.reshape(query.shape), lse.reshape(query.shape[:-1]))


def _folded_mask(mask: Tensor, groups: int) -> Tensor:
    """Fold a mask as grouped queries are: ``[B, 1 or H, G * T, n]``."""
    if mask.shape[1] == 1:
        return mask.repeat(1, 1, groups, 1)
    folded: Tensor = mask.unflatten(1, (-1, groups)).flatten(2, 3)
    return folded


def _plain_call(
    plain_forward: Callable[..., Any],
    attention: nn.Module,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> Callable[[Any, Any], None]:
    """Return what calls the layer's own attention with another cache, at given positions."""

    def call(cache: Any, position_embeddings: Any) -> None:
        plain_forward(
            attention,
            hidden_states=hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            **{cache_argument(type(attention)): cache},
            **kwargs,
        )

    return call


def _refusal(attached: AttachedModel, attention: nn.Module) -> UnsupportedError:
    """Return why a memory layer was called without the cache of a call of the decoder."""
    if attention.training and any(
        getattr(module, "gradient_checkpointing", False) for module in attached.decoder.modules()
    ):
        return UnsupportedError(
            "gradient checkpointing", "call model.gradient_checkpointing_disable() or model.eval()"
        )
    return UnsupportedError(
        "a memory layer on its own", "call the whole model, or memory.detach() first"
    )
