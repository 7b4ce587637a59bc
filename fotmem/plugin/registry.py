"""Finds plugins, keeps what they declare, and reports their problems."""

import functools
from collections.abc import Iterable
from importlib import metadata
from typing import NamedTuple, TypeVar

import pluggy

from fotmem.errors import FotmemError, OptionError, near_names, one_line
from fotmem.plugin import hookspecs
from fotmem.plugin.specs import INTERFACE_VERSION, AdapterSpec, StoreSpec

GROUP = "fotmem"
SpecT = TypeVar("SpecT", StoreSpec, AdapterSpec)


class Problem(NamedTuple):
    """A problem of one plugin; the others work."""

    plugin: str
    reason: str


class Registry:
    """All plugins that were found; each is asked once."""

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
            self._report(name, f"cannot be loaded: {_reason(error)}")
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
            self._report(plugin, f"{hook}() failed: {_reason(error)}")
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

    def why_missing(self, name: str) -> str:
        """Say why no store of this name was found; empty if it is only misspelt."""
        if "/" in name or name == ".":
            return "give the store's name, not a folder"
        word, misspelt = name.replace("-", "_"), bool(near_names(name, self.stores))
        near = [problem for problem in self.problems if word and word in problem.plugin]
        if problems := near or ([] if misspelt else self.problems):
            return "; ".join(f"plugin {plugin!r}: {reason}" for plugin, reason in problems)
        return "" if misspelt else "if you wrote it, run pip install -e . in its folder"

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
        Also those that are not available here: see ``spec.available`` and ``spec.reason``.

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


def _entry_points() -> Iterable[metadata.EntryPoint]:
    """Our own plugins first, so that no other plugin takes their names; others by name."""
    found = {
        (entry_point.name, entry_point.value): entry_point
        for entry_point in metadata.entry_points(group=GROUP)
    }

    def order(entry_point: metadata.EntryPoint) -> tuple[bool, str, str]:
        ours = entry_point.dist is not None and entry_point.dist.name == "fotmem"
        return (not ours, entry_point.name, entry_point.value)

    return sorted(found.values(), key=order)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, FotmemError) else one_line(error)
