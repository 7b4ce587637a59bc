"""Finds what `RotaryAdapter` uses of a model: functions of its family, attributes of its RoPE."""

import inspect
from typing import Any

from torch import nn

from fotmem.errors import UnsupportedError

CURES = {
    "apply_rotary_pos_emb": "rotate",
    "eager_attention_forward": "attend",
    "attention_scaling": "attention_factor",
    "inv_freq": "at_first_position",
}
"""The method of an adapter to override where a model lacks one of these."""


def family_function(attention: nn.Module, name: str) -> Any:
    """Find a function that the forward of an attention module can call.

    Raises
    ------
    UnsupportedError
        There is none.
    """
    for kind in type(attention).__mro__:
        names = getattr(inspect.unwrap(kind.__dict__.get("forward", kind)), "__globals__", {})
        if name in names:
            return names[name]
    raise UnsupportedError(
        f"a model of {type(attention).__module__}, which has no function {name},",
        f"in its adapter, override {CURES[name]}",
    )


def rope_attribute(decoder: Any, attention: Any, name: str) -> Any:
    """Read an attribute of a decoder's rotary embedding, which may have one by type of layer.

    Raises
    ------
    UnsupportedError
        It has none for the type of this layer.
    """
    rope = getattr(decoder, "rotary_emb", None)
    types = getattr(attention.config, "layer_types", None)
    kinds = [f"{types[attention.layer_idx]}_{name}"] if types else []
    for each in (name, *kinds):
        if (found := getattr(rope, each, None)) is not None:
            return found
    raise UnsupportedError(
        f"a decoder whose rotary_emb has no {' or '.join((name, *kinds))}",
        f"in its adapter, override {CURES[name]}",
    )
