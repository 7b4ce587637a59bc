"""The two forward functions that an attached model runs instead of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fotmem.attention import PartialAttention, causal_attention, dense_attention, merge
from fotmem.errors import UnsupportedError
from fotmem.memory.cache import MemoryCache, MemoryLayer, WindowRead
from fotmem.memory.explain import Trace
from fotmem.memory.inputs import (
    check_positions,
    past_columns,
    real_columns,
    refuse_tracing,
)
from fotmem.memory.layer_proof import prove_keys
from fotmem.memory.windows import Outputs, Step, plan
from fotmem.models.model_parts import cache_argument
from fotmem.models.unsupported import refuse_unsupported

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory
    from fotmem.stores.store import MemoryStore


def decoder_forward(
    memory: Memory,
    plain_forward: Callable[..., Any],
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: object = None,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    *,
    cache: object = None,
    **kwargs: Any,
) -> Any:
    """Run a decoder over input of any length, window by window, with overflow in its cache."""
    config: Any = memory.decoder.config
    refuse_tracing(input_ids if inputs_embeds is None else inputs_embeds)
    filled = MemoryCache.adopt(past_key_values if cache is None else cache, memory)
    refuse_unsupported(config, attention_mask, kwargs)
    name, inputs = (
        ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
    )
    if inputs is None or (input_ids is not None and inputs_embeds is not None):
        return plain_forward(
            input_ids=input_ids, inputs_embeds=inputs_embeds
        )  # raises its own error
    real = real_columns(inputs, attention_mask, filled.seen)
    check_positions(position_ids, real)
    filled.resume(real.shape, past_columns(attention_mask, filled.seen, real.shape[1]))
    return_dict = kwargs.pop("return_dict", None)

    outputs = Outputs(real)
    contents = filled.begin()
    fresh = [length == 0 for length in filled.lengths(len(real))]
    for step in plan(real, memory.windowing):
        make_room(filled, step, memory.windowing.window)
        filled.trace = Trace(step.columns >= 0, memory.top_k, memory.weighing)
        outputs.add(step, run_step(plain_forward, filled, step, name, inputs, **kwargs))
        if step.is_window:
            filled.move([row for row, length in enumerate(step.lengths) if length and fresh[row]])
    filled.seen += real.shape[1]
    if memory.contents is contents:  # else there is nothing left to explain
        memory.last_trace = filled.trace
    filled.contents = None

    keep = config.use_cache if use_cache is None else use_cache
    result = outputs.joined(filled if keep else None)
    as_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
    return result if as_dict else result.to_tuple()


def make_room(cache: MemoryCache, step: Step, window: int) -> None:
    """Move the whole local context of each row that the next tokens would make too long."""
    lengths = zip(cache.lengths(len(step.columns)), step.lengths, strict=True)
    cache.move([row for row, (old, new) in enumerate(lengths) if old and old + new > window])


def run_step(
    plain_forward: Callable[..., Any],
    cache: MemoryCache,
    step: Step,
    name: str,
    inputs: Tensor,
    **kwargs: Any,
) -> Any:
    """Run the plain decoder over one step, at each row's positions in its local context."""
    real = step.columns >= 0
    before = torch.tensor(cache.lengths(len(real)))
    positions = (before[:, None] + real.cumsum(1) - 1).clamp(min=0) + cache.distance
    if bool((positions == positions[:1]).all()):
        positions = positions[:1]
    cache.extend(step.columns)
    mask = None if bool(cache.columns.all()) else cache.columns.to(inputs.device)
    return plain_forward(
        **{name: step.gather(inputs)},
        attention_mask=mask,
        position_ids=positions.to(inputs.device),
        use_cache=True,
        return_dict=True,
        **{cache.memory.cache_argument: cache},
        **kwargs,
    )


def attention_forward(
    memory: Memory,
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
    """Run one memory layer's attention: local, overflow and memory, in one softmax."""
    cache = past_key_values if cache is None else cache
    if not isinstance(cache, MemoryCache) or not cache.in_call:
        raise _refusal(memory, attention)
    adapter = memory.adapters[layer]
    local = cache.layers[layer]
    assert isinstance(local, MemoryLayer)
    query, key, value = adapter.project(attention, hidden_states)
    if memory.positionals:
        first = adapter.at_first_position(key, memory.decoder)
        query, key = adapter.rotate(query, key, position_embeddings)
        if layer in memory.unproven:

            def call(cache: DynamicCache) -> None:
                given = {
                    "hidden_states": hidden_states,
                    "position_embeddings": position_embeddings,
                    "attention_mask": attention_mask,
                    cache_argument(type(attention)): cache,
                }
                plain_forward(attention, **given, **kwargs)

            prove_keys(memory, layer, key, first, call)
        local.remember(first)
    else:
        local.remember(key)
    key, value = cache.update(key, value, layer)
    if cache.reading:
        local.queries = query
        if layer == memory.layers[-1]:
            raise WindowRead

    _, _, scale = adapter.geometry(attention)
    parts = _remote(memory, cache, layer, query, scale)
    if not parts:
        output = adapter.attend(attention, query, key, value, attention_mask, **kwargs)
        return adapter.project_out(attention, output), None
    key, value = key.to(query.dtype), value.to(query.dtype)
    parts.append(_local(query, key, value, attention_mask, scale))
    out, lse = merge(parts)
    if out.requires_grad:
        out = _untrainable(out)
    if cache.trace is not None:
        cache.trace.layers[layer] = (query.detach(), lse.detach())
    return adapter.project_out(attention, out.transpose(1, 2).flatten(2)), None


def _refusal(memory: Memory, attention: nn.Module) -> UnsupportedError:
    """Tell why a memory layer was called without the cache of a call of the decoder."""
    if attention.training and any(
        getattr(module, "gradient_checkpointing", False) for module in memory.decoder.modules()
    ):
        return UnsupportedError(
            "gradient checkpointing", "call model.gradient_checkpointing_disable() or model.eval()"
        )
    return UnsupportedError(
        "a memory layer on its own", "call the whole model, or memory.detach() first"
    )


def _remote(
    memory: Memory, cache: MemoryCache, layer: int, query: Tensor, scale: float
) -> list[PartialAttention]:
    """Attend to what is not local: the attached memory, and each row's own overflow.

    ``query [B, H * G, T, D]`` is folded to ``[H, Q, D]``: a store knows nothing of batches.
    """
    local, parts = cache.layers[layer], []
    assert isinstance(local, MemoryLayer)
    rows, _, tokens, head_dim = query.shape
    assert local.keys is not None
    heads = query.reshape(rows, local.keys.shape[1], -1, tokens, head_dim)  # [B, H, G, T, D]
    store = None if cache.contents is None else cache.contents.stores[layer]
    if store is not None and len(store):
        folded = heads.transpose(0, 1).reshape(store.num_heads, -1, head_dim)  # [H, B * G * T, D]
        out, lse = _attend(memory, store, folded, scale)
        shape = (store.num_heads, rows, -1, tokens)
        out = out.reshape(*shape, head_dim).transpose(0, 1).reshape(query.shape)
        parts.append(
            PartialAttention(out, lse.reshape(shape).transpose(0, 1).reshape(query.shape[:-1]))
        )
    if any(len(store) for store in local.overflow):
        attended = [
            _attend(memory, store, row.flatten(1, 2), scale)
            for store, row in zip(local.overflow, heads, strict=True)
        ]
        out = torch.stack([part.out for part in attended]).reshape(query.shape)
        lse = torch.stack([part.lse for part in attended]).reshape(query.shape[:-1])
        parts.append(PartialAttention(out, lse))
    return parts


def _attend(memory: Memory, store: MemoryStore, queries: Tensor, scale: float) -> PartialAttention:
    scale, bias = memory.weighing.of(store, memory.windowing.window, scale)
    return store.attend(queries, top_k=memory.top_k, scale=scale, bias=bias)


def _local(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> PartialAttention:
    """Attend to the local context, with the log-sum-exp that merging needs.

    ``mask [B, 1 or H * G, T, n]`` is the decoder's own: it also hides what a sliding window hides.
    None: plain causal attention.
    """
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


class _Untrainable(torch.autograd.Function):
    """Passes on attention that a store took part in, and refuses to be trained through.

    Stores give no gradient; without this, backward would silently compute a wrong one.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise UnsupportedError(
            "backward()", "call memory.detach() or memory.clear() before training"
        )


def _untrainable(out: Tensor) -> Tensor:
    apply: Callable[[Tensor], Tensor] = _Untrainable.apply
    return apply(out)
