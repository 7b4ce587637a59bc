"""Compares an adapter's keys with those of the layer itself, when the layer first runs.

If an adapter does not know how the layers of a family differ, answers would be wrong without an
error.
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

CURE_AT_FIRST = (
    "correct at_first_position(), or first_position_embeddings() if the decoder does not pass "
    "position embeddings as (cos, sin)"
)
"""What to do in an adapter whose keys differ at the first position only."""


def prove_keys(
    attached: AttachedModel,
    layer: int,
    key: Tensor,
    first: Tensor,
    position_embeddings: Any,
    call: Callable[[DynamicCache, Any], Any],
) -> None:
    """Compare the keys of an adapter with those of its layer, once.

    Parameters
    ----------
    attached : AttachedModel
    layer : int
        One of the unproven layers; it is taken from these if the keys agree.
    key, first : Tensor
        Shape ``[B, H, T, D]``, as the adapter makes them: at their positions and at the first one.
    position_embeddings : object
        As the decoder computed them for the positions of `key`.
    call : callable
        Calls the layer's own attention module, given a cache and position embeddings.

    Raises
    ------
    UnsupportedError
        They differ.
    """
    if key.shape[2] < 2 or attached.attention(layer).training:
        return  # at the first position nothing is rotated; in training there may be dropout
    adapter = attached.adapters[layer]
    at_first = adapter.first_position_embeddings(position_embeddings)
    for place, mine, positions, cure in (
        ("at their positions", key, position_embeddings, "correct project() and rotate()"),
        ("at the first position", first, at_first, CURE_AT_FIRST),
    ):
        cache = _Keys()
        with torch.no_grad(), suppress(StopForward):
            call(cache, positions)
        if cache.keys is None or not _alike(mine, cache.keys):
            raise UnsupportedError(
                f"memory in layer {layer}, where {type(adapter).__name__} makes other keys {place} "
                "than the layer itself,",
                f"attach it to other layers, layers=[...]; in the adapter, {cure}, and let "
                "for_layer() return the adapter of this layer",
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
    rounding = max(1e-3, 8 * torch.finfo(theirs.dtype).eps)
    return bool((mine - theirs).abs().max() <= rounding * theirs.abs().max())
