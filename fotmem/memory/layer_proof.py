"""Proves, when a layer first runs, that its adapter makes the same keys as the layer itself.

An adapter that does not know how layers of a family differ would answer wrongly in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fotmem.errors import UnsupportedError

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory


class _Noted(Exception):  # noqa: N818 - no error
    """The keys are there: what comes after them need not be computed."""


class _Keys(DynamicCache):
    """Notes the keys that an attention module caches, and ends its call."""

    found: Tensor | None = None

    def update(self, key_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.found = key_states
        raise _Noted


def prove_keys(
    memory: Memory, layer: int, key: Tensor, first: Tensor, call: Callable[..., Any]
) -> None:
    """Compare the keys of an adapter with those of its layer, once.

    Parameters
    ----------
    memory : Memory
    layer : int
        One of those that are unproven; if this call can prove it, it is not so any more.
    key, first : Tensor
        Shape ``[B, H, T, D]``, as the adapter makes them: at their positions and at the first one.
    call : callable
        Calls the layer's own attention module, given a cache.

    Raises
    ------
    UnsupportedError
        They differ.
    """
    if key.shape[2] < 2 or memory.attention(layer).training:
        return  # at the first position nothing is rotated; in training there may be dropout
    cache = _Keys()
    with torch.no_grad(), suppress(_Noted):
        call(cache)
    own = cache.found
    if own is None or not (_alike(key, own) and _as_long(first, own)):
        raise UnsupportedError(
            f"memory in layer {layer}, whose keys {type(memory.adapters[layer]).__name__} makes in "
            "another way than the layer itself,",
            "attach it to other layers, layers=[...]; an adapter tells layers apart by for_layer()",
        )
    memory.unproven.discard(layer)


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
