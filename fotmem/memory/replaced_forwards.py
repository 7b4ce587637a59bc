"""Replaces the forward functions of a model that gets a memory.

The decoder's becomes `forward.decoder_forward`, and that of every memory layer's attention module
`attend.attention_forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from fotmem.memory.attached import AttachedModel
from fotmem.memory.attend import attention_forward
from fotmem.memory.forward import decoder_forward
from fotmem.models.replace_forward import own_forward, refuse_methods, replace_forward


def replace_forwards(attached: AttachedModel, undo: ExitStack) -> None:
    """Replace the forward functions of a model; `undo` gives it its own back."""
    for layer in attached.layers:
        function = _attention_call(attached, layer)
        undo.callback(replace_forward(attached.attention(layer), attached, function))
    undo.callback(replace_forward(attached.decoder, attached, _decoder_call(attached)))
    undo.callback(refuse_methods(attached.parts.model))


def _decoder_call(attached: AttachedModel) -> Callable[..., Any]:
    plain_forward = own_forward(attached.decoder)

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = partial(plain_forward, module)
        if not attached.is_attached:  # Ctrl-C, while it was attached or detached
            return plain(*args, **kwargs)
        return decoder_forward(attached, plain, *args, **kwargs)

    disabled: Callable[..., Any] = torch.compiler.disable(  # runs eagerly, not traced
        forward, reason="a fotmem memory is attached; call memory.detach() to trace the plain model"
    )
    return disabled


def _attention_call(attached: AttachedModel, layer: int) -> Callable[..., Any]:
    plain_forward = own_forward(attached.attention(layer))

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not attached.is_attached:
            return plain_forward(module, *args, **kwargs)
        return attention_forward(attached, layer, plain_forward, module, *args, **kwargs)

    return forward
