"""Imports and calls the factory of a spec; an error says what to correct."""

import pkgutil
import re
import sys
from collections.abc import Callable
from typing import Any

from fotmem.errors import MissingPackageError, OptionError, near_names, one_line
from fotmem.plugin.specs import AdapterSpec, StoreSpec

REFUSED = {
    "directory": "take directory in its __init__ (None: in memory), or declare persistent=False",
    "options": "take options in its __init__, or leave options out of its StoreSpec",
}
LACKING = {
    "directory": "declare persistent=True in its StoreSpec, or give directory a default",
    "options": "name the model of its options in its StoreSpec, such as options=MyOptions",
}
"""What cures a class that does not take, or does not get, what its spec declares."""


def call_factory(spec: StoreSpec | AdapterSpec, kind: type, plugin: str, **arguments: Any) -> Any:
    """Call a spec's factory, and check the type of what it returned.

    Raises
    ------
    MissingPackageError
        It cannot be imported.
    OptionError
        It does not take what its spec declares, or returned no `kind`.
    """
    factory, owner = _imported(spec, plugin), f"factory of {spec.name!r}, of plugin {plugin!r}"
    try:
        made = factory(**arguments)
    except TypeError as error:
        if cure := _cure(error):
            given = ", ".join(arguments)
            raise OptionError(f"{owner}, is called with {given}: {error}; {cure}") from error
        raise
    if not isinstance(made, kind):
        raise OptionError(
            f"{owner}, must return {kind.__name__}, got {type(made).__name__}; tell its author"
        )
    return made


def _imported(spec: StoreSpec | AdapterSpec, plugin: str) -> Callable[..., Any]:
    try:
        return spec.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        cure = _correction(spec, error) or "install that plugin again, or tell its author"
        raise MissingPackageError(
            spec.name,
            f"{spec.factory} of plugin {plugin!r} cannot be imported ({one_line(error)}); {cure}",
        ) from error


def _correction(spec: StoreSpec | AdapterSpec, error: BaseException) -> str:
    """Say what to write instead of a module or name that does not exist; empty if both do."""
    module, _, name = str(spec.factory).partition(":")
    package, _, last = module.rpartition(".")
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        folders = getattr(sys.modules.get(package), "__path__", [])
        near = near_names(last, [found.name for found in pkgutil.iter_modules(folders)])
    elif isinstance(error, AttributeError) and module in sys.modules:  # it was imported
        names = vars(sys.modules[module]).items()
        near = near_names(name, [each for each, value in names if isinstance(value, type)])
    else:
        return ""
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"correct factory in its {type(spec).__name__}{meant}"


def _cure(error: TypeError) -> str:
    """Say what cures a call that did not fit; empty if the error is another one."""
    refused = re.search(r"unexpected keyword argument '(directory|options)'", str(error))
    lacking = re.search(r"missing .* argument: '(directory|options)'", str(error))
    if refused:
        return REFUSED[refused[1]]
    return LACKING[lacking[1]] if lacking else ""
