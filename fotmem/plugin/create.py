"""Makes stores and adapters by name."""

import os
from typing import Any

import torch
from pydantic import BaseModel

from fotmem.adapter import Adapter
from fotmem.errors import OptionError, UnknownStoreError
from fotmem.plugin.factory import call_factory
from fotmem.plugin.registry import registry
from fotmem.plugin.specs import AdapterSpec, StoreSpec
from fotmem.stores.checks import (
    checked_directory,
    checked_dtype,
    checked_sizes,
    named_device,
    usable_device,
)
from fotmem.stores.options import StoreOptions, checked_options
from fotmem.stores.store import MemoryStore


def create_store(
    name: str,
    *,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    directory: str | os.PathLike[str] | None = None,
    **options: Any,
) -> MemoryStore:
    """Create a store by name.

    Parameters
    ----------
    name : str
        As in `available_stores`.
    num_heads, head_dim : int
        Key/value heads ``H`` and head dimension ``D``, at least 1.
    dtype : torch.dtype
        In which keys and values are kept: float32, bfloat16 or float16.
    device : torch.device or str
        Where they are kept.
    directory : path or URL, optional
        Where a persistent store keeps its files; an existing directory is reopened. Which URLs
        (``s3://...``) are possible depends on the store.
    **options
        Options of the store; see its options model.

    Returns
    -------
    MemoryStore
        Empty, unless an existing directory was opened.

    Raises
    ------
    UnknownStoreError, MissingPackageError
        The name is not known, or its package is not installed.
    OptionError
        An unknown option (the message names the closest one), or a value out of range; a device
        that this machine does not have; a directory that is not a path, or for a store in memory;
        a store whose class does not fit what its plugin declares.
    DtypeError
        A dtype that is not supported.

    Examples
    --------
    >>> store = create_store("exact", num_heads=2, head_dim=64)
    >>> len(store)
    0
    """
    spec = find_store(name)
    place = checked_directory(directory)
    named = named_device(device)
    if named.type not in spec.capabilities.devices:
        raise OptionError(
            f"store {name!r} keeps its tensors on {', '.join(spec.capabilities.devices)}, "
            f"got device {str(named)!r}"
        )
    if place is not None and not spec.capabilities.persistent:
        raise OptionError(
            f"store {name!r} lives in memory and takes no directory, got {str(place)!r}"
        )
    heads, dim = checked_sizes(num_heads, head_dim)
    arguments: dict[str, Any] = {
        "num_heads": heads,
        "head_dim": dim,
        "dtype": checked_dtype(dtype),
        "device": usable_device(named),
    }
    checked = validated_options(spec, options)
    if spec.options is not StoreOptions:
        arguments["options"] = checked
    if spec.capabilities.persistent:
        arguments["directory"] = place
    store: MemoryStore = _made(spec, MemoryStore, **arguments)
    _check_search_options(store, spec)
    store.has_directory |= place is not None
    store.store_name = name
    return store


def create_adapter(spec: AdapterSpec) -> Adapter:
    """Create an adapter.

    Raises
    ------
    MissingPackageError
        What it needs is not installed, or it cannot be imported.
    """
    spec.require()
    adapter: Adapter = _made(spec, Adapter)
    return adapter


def _made(spec: StoreSpec | AdapterSpec, kind: type, **arguments: Any) -> Any:
    return call_factory(spec, kind, registry().owners.get(spec, ""), **arguments)


def _check_search_options(store: MemoryStore, spec: StoreSpec) -> None:
    """Refuse a store whose `search_options` names what is none of its options."""
    known = spec.options.model_fields
    for option in sorted(store.search_options - known.keys()):
        unknown = OptionError.unknown(option, f"store {spec.name!r}", known)
        raise OptionError(f"search_options of {type(store).__name__}: {unknown}")


def find_store(name: str) -> StoreSpec:
    """Find a store's spec, or raise `UnknownStoreError` or `MissingPackageError`."""
    stores = registry().stores
    if not isinstance(name, str) or name not in stores:
        raise UnknownStoreError(name, stores, hint=registry().why_missing(str(name)))
    stores[name].require()
    return stores[name]


def validated_options(spec: StoreSpec, options: dict[str, Any]) -> BaseModel:
    """Check options against the spec's model, or raise `OptionError`."""
    known = _option_names(spec)
    for name in options:
        if name not in known:
            raise OptionError.unknown(name, f"store {spec.name!r}", known)
    return checked_options(spec.options, options, f"store {spec.name!r}")


def shared_options(specs: list[StoreSpec], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Distribute options to the stores that have them, by name of the store, and check them.

    Raises
    ------
    OptionError
        A store refuses a value, or none of them has such an option.
    """
    known = {name for spec in specs for name in _option_names(spec)}
    owner = " or ".join(repr(spec.name) for spec in specs)
    for name in options:
        if name not in known:
            raise OptionError.unknown(name, f"store {owner}", known)
    shares = {}
    for spec in specs:
        names = _option_names(spec)
        shares[spec.name] = {name: value for name, value in options.items() if name in names}
        validated_options(spec, shares[spec.name])
    return shares


def _option_names(spec: StoreSpec) -> set[str]:
    return {field.alias or name for name, field in spec.options.model_fields.items()}
