"""Private names of fotmem's base classes that a store uses for something of its own."""

import dis
import inspect
from collections.abc import Iterator
from types import CodeType

from fotmem.stores.store import MemoryStore


def names_used_twice(kind: type[MemoryStore]) -> dict[str, str]:
    """Find the private names that a store shares with its base classes by mistake.

    Returns
    -------
    dict of str to str
        Each name, and the base class that it belongs to.
    """
    bases = [each for each in kind.mro() if each.__module__.startswith("fotmem.stores.")]
    foreign = [each for each in kind.mro() if not each.__module__.startswith("fotmem.")]
    theirs = {name: base.__name__ for base in reversed(bases) for name in _private_names(base)}
    own = {name for each in foreign for name in _private_names(each)}
    return {name: theirs[name] for name in sorted(own & theirs.keys())}


def _private_names(kind: type) -> set[str]:
    """Return the private names that a class defines, or that its methods assign to `self`."""
    in_every_class = vars(type("Plain", (MemoryStore,), {})).keys()
    names = (vars(kind).keys() | inspect.get_annotations(kind).keys()) - in_every_class
    for value in vars(kind).values():
        function = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", value))
        defined_here = getattr(function, "__qualname__", "").startswith(f"{kind.__qualname__}.")
        if defined_here and inspect.isfunction(function) and function.__code__.co_argcount:
            names |= set(_assigned(function.__code__, function.__code__.co_varnames[0]))
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def _assigned(code: CodeType, owner: str) -> Iterator[str]:
    """Yield the attributes of the variable `owner` that this code assigns."""
    loaded: object = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR" and loaded == owner:
            yield instruction.argval
        value = instruction.argval
        loaded = value[-1] if isinstance(value, tuple) and value else value  # two in one, from 3.13
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _assigned(constant, owner)
