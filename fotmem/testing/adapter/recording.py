"""Records a call of a plain model: what each attention module gets, caches and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fotmem.memory.cache import StopForward
from fotmem.models.model_parts import cache_argument

ARGUMENTS = ("hidden_states", "position_embeddings", "attention_mask")
"""The arguments that an attention module may get by position, in this order."""


CACHES = ("cache", "past_key_values")
"""Names of the argument for the cache, from transformers 5.24 on and before."""


class AttentionCall(NamedTuple):
    """One call of one attention module."""

    attention: nn.Module
    arguments: dict[str, Any]
    """By name; without the cache."""
    keys: Tensor
    """Shape ``[B, H, T, D]``, as in the cache: positions encoded."""
    values: Tensor
    """Shape ``[B, H, T, D]``."""
    output: Tensor
    """Shape ``[B, T, hidden]``."""


class Run(NamedTuple):
    """One call of a plain model."""

    decoder: nn.Module
    """The innermost module that called all attention modules."""
    calls: list[AttentionCall]
    """One per layer, in the order of their places in the cache."""
    logits: Tensor


class _Frame(NamedTuple):
    """A module that is running, and its arguments."""

    module: nn.Module
    arguments: dict[str, Any]


class _Cache(DynamicCache):
    """Records which modules are running when it is filled: the innermost is the attention."""

    def __init__(self, running: list[_Frame]) -> None:
        super().__init__()
        self._running = running
        self.callers: dict[int, list[_Frame]] = {}
        self.written: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Record keys and values, and cache them."""
        self.callers[layer_idx] = list(self._running)
        self.written[layer_idx] = (key_states.clone(), value_states.clone())
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values


class _LayerCache(_Cache):
    """Ends the call of an attention module when it has filled the cache."""

    def __init__(self) -> None:
        super().__init__([])

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Record keys and values, and end the call."""
        super().update(*args, **kwargs)
        raise StopForward


def record(model: Any, input_ids: Tensor, **options: Any) -> Run:
    """Call a plain model with an empty cache, and record its attention modules.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    input_ids : Tensor
        Shape ``[B, T]``.
    **options
        Passed on to the model, such as ``position_ids``.
    """
    running: list[_Frame] = []
    outputs: dict[nn.Module, Tensor] = {}
    cache = _Cache(running)
    with _watched(model, running, outputs):
        logits = model(input_ids, **{cache_argument(type(model)): cache}, **options).logits
    calls = [
        AttentionCall(
            frames[-1].module,
            frames[-1].arguments,
            *cache.written[layer],
            outputs[frames[-1].module],
        )
        for layer, frames in sorted(cache.callers.items())
    ]
    shared = set.intersection(*({f.module for f in frames} for frames in cache.callers.values()))
    path = next(iter(cache.callers.values()))
    return Run([frame.module for frame in path if frame.module in shared][-1], calls, logits)


def attention_keys(
    attention: nn.Module, layer: int, arguments: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Call one attention module; return the keys and values ``[B, H, T, D]`` that it caches."""
    cache = _LayerCache()
    with suppress(StopForward):
        attention(**{**arguments, cache_argument(type(attention)): cache})
    return cache.written[layer]


def named_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an attention module by name, without its cache."""
    given = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
    return {name: part for name, part in given.items() if name not in CACHES}


@contextmanager
def _watched(
    model: nn.Module, running: list[_Frame], outputs: dict[nn.Module, Tensor]
) -> Iterator[None]:
    """Keep a stack of the modules that are running, and the first output of each that ran."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_Frame(module, named_arguments(args, kwargs)))

    def leave(module: nn.Module, args: object, output: Any) -> None:
        running.pop()
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor):
            outputs[module] = first

    handles: list[Any] = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
