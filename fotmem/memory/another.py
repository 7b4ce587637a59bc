"""Another memory of a model that has one: it must fit the first, which is the default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from fotmem.adapter import Adapter
from fotmem.errors import AttachError
from fotmem.memory.attached import AttachedModel
from fotmem.memory.options import MemoryOptions
from fotmem.models.model_parts import decoder_of
from fotmem.models.replace_forward import owner_of

SHARED = ("window", "last_context_length", "distance", "recent")
"""The memory options that all memories of a model share."""


def default_memory(model: nn.Module, *, default: bool, memory: object) -> AttachedModel | None:
    """Return that of the model's default memory; None if it has no memory yet.

    Raises
    ------
    AttachError
        It has one, and an empty memory would be another default; or it has none, and `default` is
        False.
    ModelError
        No adapter knows the model.
    """
    owner = owner_of(decoder_of(model))
    if not isinstance(owner, AttachedModel):
        if not default and owner is None:
            raise AttachError(
                "default=False, but this model has no memory yet; its first one is the default"
            )
        return None
    if memory is None and default:
        raise AttachError(
            "this model has a memory already; call its detach() first, or pass default=False for "
            "another memory, which fotmem.using() chooses"
        )
    return owner


def shared_options(first: AttachedModel) -> dict[str, Any]:
    """Return the options that another memory takes over from the first."""
    return {name: getattr(first.options, name) for name in SHARED}


def fitting_adapters(
    first: AttachedModel, layers: Iterable[int] | None, options: MemoryOptions
) -> dict[int, Adapter]:
    """Return the adapters that the memories of a model share.

    Raises
    ------
    AttachError
        Another memory has other layers than the first, or another window, distance, last context
        length or number of recent tokens.
    """
    if layers is not None and sorted(layers) != sorted(first.layers):
        raise AttachError(
            f"the memories of a model have the same layers: {list(first.layers)} of its default "
            f"memory, not {sorted(layers)}; call that one's detach() first to use others"
        )
    for name, expected in shared_options(first).items():
        if (got := getattr(options, name)) != expected:
            raise AttachError(
                f"the memories of a model have the same {name}: {expected} of its default memory, "
                f"not {got}; pass {name}={expected}, or call that one's detach() first"
            )
    return dict(first.adapters)
