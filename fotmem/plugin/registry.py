"""Finds plugins, keeps what they declare, and reports what is wrong with them."""

import functools
import os
from collections.abc import Iterable
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

import pluggy
import torch
from pydantic import BaseModel

from fotmem.errors import FotmemError, ModelError, OptionError, UnknownStoreError
from fotmem.plugin import hookspecs
from fotmem.plugin.specs import INTERFACE_VERSION, AdapterSpec, StoreSpec
from fotmem.stores.checks import (
    checked_directory,
    checked_dtype,
    named_device,
    usable_device,
    whole,
)
from fotmem.stores.options import checked_options
from fotmem.stores.store import MOST, MemoryStore

GROUP = "fotmem"
SpecT = TypeVar("SpecT", StoreSpec, AdapterSpec)


class Problem(NamedTuple):
    """What is wrong with one plugin; the others work."""

    plugin: str
    reason: str


class Registry:
    """All plugins that were found, asked once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.stores: dict[str, StoreSpec] = {}
        self.adapters: dict[str, AdapterSpec] = {}
        self.owners: dict[StoreSpec | AdapterSpec, str] = {}
        """The plugin that offers a store or adapter."""
        self._plugins = pluggy.PluginManager(GROUP)
        self._plugins.add_hookspecs(hookspecs)
        for entry_point in _entry_points():
            self._load(entry_point)

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        name, plugin = entry_point.name, None
        if self._plugins.has_plugin(name):
            self._report(name, f"{entry_point.value} is left out: the name is already taken")
            return
        try:
            plugin = entry_point.load()
            self._plugins.register(plugin, name)
            self._check_hooks(plugin)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises
            if plugin is not None and self._plugins.get_plugin(name) is plugin:
                self._plugins.unregister(plugin)
            self._report(name, f"cannot be loaded: {_one_line(error)}")
            return
        self._collect(name, "fotmem_stores", StoreSpec, self.stores)
        self._collect(name, "fotmem_adapters", AdapterSpec, self.adapters)

    def _check_hooks(self, plugin: object) -> None:
        known = [hook for hook in vars(hookspecs) if hook.startswith("fotmem_")]
        callers = self._plugins.get_hookcallers(plugin)
        if not callers:
            raise OptionError(f"no hook; mark {' or '.join(known)} with @fotmem.plugin.hookimpl")
        for caller in callers:
            if not caller.has_spec():
                raise OptionError.unknown(caller.name, "fotmem", known, kind="hook")

    def _collect(self, plugin: str, hook: str, kind: type[SpecT], found: dict[str, SpecT]) -> None:
        others = [other for name, other in self._plugins.list_name_plugin() if name != plugin]
        caller = self._plugins.subset_hook_caller(hook, others)
        if not caller.get_hookimpls():
            return
        try:
            answers = caller()
            specs = [spec for answer in answers for spec in answer]
        except (Exception, SystemExit) as error:  # whatever a stranger's hook raises
            self._report(plugin, f"{hook}() failed: {_one_line(error)}")
            return
        if not answers:  # pluggy drops None
            self._report(plugin, f"{hook}() returned None, must return or yield {kind.__name__}")
        for spec in specs:
            if reason := self._refusal(spec, kind, found):
                self._report(plugin, f"{hook}(): {reason}")
            else:
                found[spec.name] = spec
                self.owners[spec] = plugin

    def _refusal(self, spec: object, kind: type[SpecT], found: dict[str, SpecT]) -> str:
        if not isinstance(spec, kind):
            return f"must return or yield {kind.__name__}, got {type(spec).__name__}"
        if spec.interface_version > INTERFACE_VERSION:
            return (
                f"{spec.name!r} asks for plugin interface {spec.interface_version}, this fotmem "
                f"has {INTERFACE_VERSION}: upgrade fotmem"
            )
        if spec.name in found:
            owner = self.owners[found[spec.name]]
            return f"the name {spec.name!r} is already taken by plugin {owner!r}"
        return ""

    def _report(self, plugin: str, reason: str) -> None:
        self.problems.append(Problem(plugin, reason))


@functools.cache
def registry() -> Registry:
    """Ask all plugins, once per process."""
    return Registry()


def available_stores() -> dict[str, StoreSpec]:
    """List the stores that plugins declare, by name.

    Returns
    -------
    dict of str to StoreSpec
        Also those that cannot be used here: see ``spec.available`` and ``spec.reason``.

    Examples
    --------
    >>> available_stores()["exact"].available
    True
    """
    return dict(registry().stores)


def available_adapters() -> dict[str, AdapterSpec]:
    """List the model families that plugins can put memory layers into, by name.

    Examples
    --------
    >>> available_adapters()["llama"].architectures
    ('LlamaForCausalLM',)
    """
    return dict(registry().adapters)


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
        For persistent stores: where; an existing one is reopened. What a URL (``s3://...``) may be
        is the store's business.
    **options
        The store's own; see its options model.

    Returns
    -------
    MemoryStore
        Empty, unless an existing directory was opened.

    Raises
    ------
    UnknownStoreError, MissingPackageError
        The name is not known, or its package is not installed.
    OptionError
        An unknown option (the closest one is named), or a bad value; a device that is not here; a
        directory that is no path, or that the store does not take.
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
    store = spec.factory(
        num_heads=whole("num_heads", num_heads, least=1, most=MOST),
        head_dim=whole("head_dim", head_dim, least=1, most=MOST),
        dtype=checked_dtype(dtype),
        device=usable_device(named),
        directory=place,
        options=validated_options(spec, options),
    )
    if place is not None and isinstance(store, MemoryStore):
        store._on_disk = True
    return store


def unknown_model(culprit: str) -> ModelError:
    """Build the error for a model that no adapter knows; it names where families are listed."""
    return ModelError(
        f"no adapter knows {culprit}; `fotmem models` lists the families that can have memory, "
        "docs/adapters.md shows how to add one"
    )


def find_store(name: str) -> StoreSpec:
    """Find a store's spec, or raise `UnknownStoreError` or `MissingPackageError`."""
    stores = registry().stores
    if not isinstance(name, str) or name not in stores:
        raise UnknownStoreError(name, stores)
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
    """Give each store the options that it has, by its name; check them.

    Raises
    ------
    OptionError
        A store does not take a value, or none of them has such an option.
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


def _entry_points() -> Iterable[metadata.EntryPoint]:
    """Our own plugins first, so that nobody takes their names; others by name."""
    found = {
        (entry_point.name, entry_point.value): entry_point
        for entry_point in metadata.entry_points(group=GROUP)
    }

    def order(entry_point: metadata.EntryPoint) -> tuple[bool, str, str]:
        ours = entry_point.dist is not None and entry_point.dist.name == "fotmem"
        return (not ours, entry_point.name, entry_point.value)

    return sorted(found.values(), key=order)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, FotmemError) else f"{type(error).__name__}: {text}"
