"""Makes the stores of memory layers, by the names and options that a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fotmem.adapter import Adapter
from fotmem.errors import OptionError, UnknownStoreError
from fotmem.memory.contents import Makers
from fotmem.models.model_parts import ModelParts
from fotmem.plugin.create import create_store, find_store, shared_options
from fotmem.plugin.registry import available_stores
from fotmem.stores.store import MemoryStore


def store_makers(
    parts: ModelParts,
    adapters: Mapping[int, Adapter],
    dtype: torch.dtype,
    store: str | Mapping[int, str],
    options: dict[str, Any],
) -> Makers:
    """Check names and options; return what makes each memory layer's stores.

    Parameters
    ----------
    parts, adapters
        Of the model.
    dtype : torch.dtype
        Of keys and values.
    store : str or mapping of int to str
        Name of the store for all memory layers, or one for each.
    options : dict
        Of the stores; each gets those that it knows.
    """
    names = _store_names(store, list(adapters))
    shares = shared_options([find_store(name) for name in dict.fromkeys(names.values())], options)
    return {
        layer: partial(
            _make_store, name, adapters[layer], parts.attentions[layer], dtype, shares[name]
        )
        for layer, name in names.items()
    }


def _store_names(store: str | Mapping[int, str], layers: list[int]) -> dict[int, str]:
    if isinstance(store, str):
        return dict.fromkeys(layers, store)
    if not isinstance(store, Mapping):
        raise OptionError(f"store must be a name, or a mapping of layers to names, got {store!r}")
    for name in store.values():
        if not isinstance(name, str):
            raise UnknownStoreError(name, available_stores())
    if set(store) != set(layers):
        raise OptionError(
            f"store names layers {list(store)}, but the memory layers are {layers}: "
            "name a store for each of these, and for no other"
        )
    return {layer: store[layer] for layer in layers}


def _make_store(
    name: str, adapter: Adapter, attention: nn.Module, dtype: torch.dtype, options: dict[str, Any]
) -> MemoryStore:
    num_heads, head_dim, _ = adapter.geometry(attention)
    device = execution_device(attention)
    if device.type not in find_store(name).capabilities.devices:
        device = torch.device("cpu")
    return create_store(
        name, num_heads=num_heads, head_dim=head_dim, dtype=dtype, device=device, **options
    )


def execution_device(module: nn.Module) -> torch.device:
    """Return where a module computes; its weights may wait elsewhere (accelerate's offloading)."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)  # type: ignore[union-attr]
    for weight in module.parameters():
        return weight.device
    return torch.device("cpu")  # torch's dynamic quantisation keeps weights in no parameters
