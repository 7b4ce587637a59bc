"""The hooks that a plugin may implement (entry-point group ``fotmem``)."""

from collections.abc import Iterable

import pluggy

from fotmem.plugin.specs import AdapterSpec, StoreSpec

hookspec = pluggy.HookspecMarker("fotmem")
hookimpl = pluggy.HookimplMarker("fotmem")
"""Marks a plugin's implementation of a hook."""


@hookspec
def fotmem_stores() -> Iterable[StoreSpec]:  # type: ignore[empty-body]
    """Declare the stores this plugin offers.

    Called once, when stores are first listed or made. It must be fast: the spec names the factory,
    whose module imports the index library.
    """


@hookspec
def fotmem_adapters() -> Iterable[AdapterSpec]:  # type: ignore[empty-body]
    """Declare the model families this plugin can put memory layers into.

    Called once, when adapters are first listed or made. It must be fast: the spec names the
    factory, whose module imports the model family.
    """
