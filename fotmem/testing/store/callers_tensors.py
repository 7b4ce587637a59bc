"""Checks that a store does not change its callers' tensors."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import fail

GIVEN = {
    "add": ("keys", "values"),
    "search": ("queries",),
    "attend": ("queries",),
    "keys": ("ids",),
    "values": ("ids",),
}
"""Tensor arguments of each call."""
LARGEST = 2**20
"""Largest tensor that is checked, in elements: larger ones take time and memory."""


def watch(store: MemoryStore) -> None:
    """Let a store fail if a call changes its arguments.

    The store becomes an instance of a subclass of its class, the same for all stores of that class.
    A class that does not allow this is not checked.
    """
    try:
        store.__class__ = _watched(type(store))
    except TypeError:
        return


@functools.cache
def _watched(kind: type[MemoryStore]) -> type[MemoryStore]:
    if hasattr(kind, "_is_watched"):
        return kind
    calls = {name: _watching(getattr(kind, name), given) for name, given in GIVEN.items()}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_is_watched": True}
    made: type[MemoryStore] = type(kind.__name__, (kind,), {**calls, **names})
    return made


def _watching(call: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    @functools.wraps(call)
    def watched(store: MemoryStore, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        given = dict(zip(names, args, strict=False)) | kwargs
        before = {name: _copy(given.get(name)) for name in names}
        result = call(store, *args, **kwargs)
        for name, copy in before.items():
            if copy is not None and not torch.equal(given[name], copy):
                what = f"{call.__name__} changed the caller's {name} in place"
                fail(f"{what}: work on a copy")
        return result

    return watched


def _copy(given: object) -> Tensor | None:
    if isinstance(given, Tensor) and given.layout == torch.strided and given.numel() <= LARGEST:
        return given.detach().clone()
    return None
