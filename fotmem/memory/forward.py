"""What the decoder of an attached model runs instead of its own forward: windows, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fotmem.memory.attached import AttachedModel
from fotmem.memory.cache import MemoryCache
from fotmem.memory.inputs import check_positions, past_columns, real_columns, refuse_tracing
from fotmem.memory.trace import Trace, keep_trace
from fotmem.memory.view import SeenMemory
from fotmem.memory.windows import Outputs, Step, plan
from fotmem.models.unsupported import refuse_unsupported


def decoder_forward(
    attached: AttachedModel,
    plain_forward: Callable[..., Any],
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: object = None,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    *,
    cache: object = None,
    return_dict: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Run a decoder over input of any length, window by window, with overflow in its cache."""
    config: Any = attached.decoder.config
    refuse_tracing(input_ids if inputs_embeds is None else inputs_embeds)
    filled = MemoryCache.adopt(past_key_values if cache is None else cache, attached)
    refuse_unsupported(config, attention_mask, kwargs)
    if (input_ids is None) == (inputs_embeds is None):  # it raises its own error
        return plain_forward(input_ids=input_ids, inputs_embeds=inputs_embeds)
    name, inputs = (
        ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
    )
    assert inputs is not None
    real = real_columns(inputs, attention_mask, filled.seen)
    check_positions(position_ids, real)
    filled.resume(real.shape, past_columns(attention_mask, filled.seen, real.shape[1]))
    outputs = _run(attached, plain_forward, filled, real, name, inputs, **kwargs)
    keep = config.use_cache if use_cache is None else use_cache
    result = outputs.joined(filled if keep else None)
    as_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
    return result if as_dict else result.to_tuple()


def _run(
    attached: AttachedModel,
    plain_forward: Callable[..., Any],
    cache: MemoryCache,
    real: Tensor,
    name: str,
    inputs: Tensor,
    **kwargs: Any,
) -> Outputs:
    """Run all steps of one call: windows that overflow, and the local context at the end."""
    options, outputs = attached.options, Outputs(real)
    cache.begin(len(real))
    fresh = [length == 0 for length in cache.columns.lengths(len(real))]
    for step in plan(real, options):
        _make_room(cache, step, options.window)
        seen = [[SeenMemory.of(view) for view in views] for views in cache.looked_at()]
        cache.trace = Trace(step.columns >= 0, cache.options(0), seen)
        outputs.add(step, run_step(plain_forward, cache, step, name, inputs, **kwargs))
        if step.is_window:
            cache.move([row for row, length in enumerate(step.lengths) if length and fresh[row]])
    cache.seen += real.shape[1]
    if cache.trace is not None:
        keep_trace(attached, cache.trace)
    cache.views = None
    return outputs


def _make_room(cache: MemoryCache, step: Step, window: int) -> None:
    """Move the whole local context of each row that the next tokens would make too long."""
    lengths = zip(cache.columns.lengths(len(step.columns)), step.lengths, strict=True)
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
    before = torch.tensor(cache.columns.lengths(len(real)))
    positions = (before[:, None] + real.cumsum(1) - 1).clamp(min=0)
    if bool((positions == positions[:1]).all()):
        positions = positions[:1]
    cache.columns.extend(step.columns, cache.seen)
    local = cache.columns.real
    return plain_forward(
        **{name: step.gather(inputs)},
        attention_mask=None if bool(local.all()) else local.to(inputs.device),
        position_ids=positions.to(inputs.device),
        use_cache=True,
        return_dict=True,
        **{cache.attached.cache_argument: cache},
        **kwargs,
    )
