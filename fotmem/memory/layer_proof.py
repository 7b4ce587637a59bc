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
    for mine, positions in ((key, position_embeddings), (first, _first(position_embeddings))):
        cache = _Keys()
        with torch.no_grad(), suppress(StopForward):
            call(cache, positions)
        if cache.keys is None or not _alike(mine, cache.keys):
            adapter = type(attached.adapters[layer]).__name__
            raise UnsupportedError(
                f"memory in layer {layer}, whose keys {adapter} makes in another way than the "
                "layer itself,",
                "attach it to other layers, layers=[...]; in the adapter, for_layer() must return "
                "the adapter of this layer",
            )
    attached.unproven.discard(layer)


def _first(position_embeddings: Any) -> Any:
    """Return the embeddings of the first position: not rotated, scaled as at any position."""
    if not isinstance(position_embeddings, tuple):
        return position_embeddings
    cos, sin = position_embeddings
    return torch.hypot(cos.float(), sin.float()).to(cos.dtype), torch.zeros_like(sin)


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
