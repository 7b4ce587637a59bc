"""Compares an adapter's keys with those of the layer itself, when the layer first runs.

An adapter that does not know how the layers of a family differ would answer wrongly in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fotmem.errors import UnsupportedError
from fotmem.memory.attached import AttachedModel
from fotmem.memory.cache import StopForward


def prove_keys(
    attached: AttachedModel, layer: int, key: Tensor, first: Tensor, call: Callable[..., Any]
) -> None:
    """Compare the keys of an adapter with those of its layer, once.

    Parameters
    ----------
    attached : AttachedModel
    layer : int
        One of the unproven layers; it is taken from these if the keys agree.
    key, first : Tensor
        Shape ``[B, H, T, D]``, as the adapter makes them: at their positions and at the first one.
    call : callable
        Calls the layer's own attention module, given a cache.

    Raises
    ------
    UnsupportedError
        They differ.
    """
    if key.shape[2] < 2 or attached.attention(layer).training:
        return  # at the first position nothing is rotated; in training there may be dropout
    cache = _Keys()
    with torch.no_grad(), suppress(StopForward):
        call(cache)
    own = cache.keys
    if own is None or not (_alike(key, own) and _as_long(first, own)):
        adapter = type(attached.adapters[layer]).__name__
        raise UnsupportedError(
            f"memory in layer {layer}, whose keys {adapter} makes in another way than the layer "
            "itself,",
            "attach it to other layers, layers=[...]; an adapter tells layers apart by for_layer()",
        )
    attached.unproven.discard(layer)


class _Keys(DynamicCache):
    """Keeps the keys that an attention module caches, and ends its call."""

    keys: Tensor | None = None

    def update(self, key_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys = key_states
        raise StopForward


def _alike(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    return bool((mine - theirs).abs().max() <= _rounding(theirs) * theirs.abs().max())


def _as_long(first: Tensor, theirs: Tensor) -> bool:
    """Rotating keeps lengths, and what scales keys scales them alike at all positions."""
    mine, length = first.float().norm(), theirs.float().norm()
    return bool((mine - length).abs() <= _rounding(theirs) * length)


def _rounding(keys: Tensor) -> float:
    return max(1e-3, 8 * torch.finfo(keys.dtype).eps)
