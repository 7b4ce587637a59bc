"""Names of new stores, and of their packages and classes."""

import importlib.util
import re

from fotmem.errors import OptionError
from fotmem.plugin.registry import registry

LONGEST = 32
"""Letters of a name at most: longer ones would make lines of more than 100 columns."""


def check_name(name: str) -> None:
    """Check that a package for a store of this name can be made.

    Raises
    ------
    OptionError
        It is not a name for a store, or it is taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        words = "-".join(re.findall(r"[a-z0-9]+", name.lower())).lstrip("0123456789-")
        instead = f"; did you mean {words!r}?" if 0 < len(words) <= LONGEST else ""
        raise OptionError(
            "a store's name must be lower-case words joined by '-', the first beginning with a "
            f"letter, got {name!r}{instead}"
        )
    if len(name) > LONGEST:
        raise OptionError(f"a store's name must have at most {LONGEST} letters, got {len(name)}")
    _check_free(name)


def module_name(name: str) -> str:
    """Return the import name of the package for a store of this name."""
    return "fotmem_" + name.replace("-", "_")


def class_name(name: str) -> str:
    """Return what the classes of a store of this name begin with."""
    return "".join(map(str.capitalize, name.split("-")))


def _check_free(name: str) -> None:
    """Refuse a name that fotmem would leave out, or that would hide another package."""
    package, known = module_name(name), registry()
    if name in known.stores:
        owner = known.owners[known.stores[name]]
        raise OptionError(
            f"there is already a store named {name!r}, of plugin {owner!r}; choose another name, "
            "or uninstall that one"
        )
    if importlib.util.find_spec(package) is not None:
        raise OptionError(
            f"there is already a package named {package}; choose another name, or uninstall it"
        )
