"""Builds a store anew from the keys and values that count, after a change of it failed."""

from collections.abc import Iterable
from enum import Enum
from pathlib import PurePath
from typing import Any, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

from fotmem.errors import StorageError, shown
from fotmem.stores.guard import Guard

PLAIN = (int, float, str, bytes, tuple, Enum, PurePath, BaseModel, torch.dtype, torch.device)
"""Types of arguments that two stores may share, because they never change."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a store was made with."""


class Rebuildable(Protocol):
    """A store, as far as building it anew needs it."""

    has_directory: bool
    _guard: Guard
    _made_with: Arguments
    _newest: Tensor | None

    @property
    def first_id(self) -> int:
        """Id of the oldest key that can be found."""

    def new_empty(self) -> "Rebuildable":
        """Build an empty store like this one."""

    def start_at(self, first_id: int) -> None:
        """Number keys from `first_id` on."""

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values."""


def shareable(made_with: Arguments, options: object, *, kind: str) -> Arguments:
    """Return the arguments for a second store like one that was made with these.

    Parameters
    ----------
    made_with : tuple
        Positional and keyword arguments.
    options : BaseModel or None
        The store's options now, which `tune` may have changed.
    kind : str
        Name of the store's class.

    Raises
    ------
    StorageError
        It was made with something that both stores would share.
    """
    args, kwargs = made_with
    if "directory" in kwargs:
        kwargs = kwargs | {"directory": None}
    if "options" in kwargs and options is not None:
        kwargs = kwargs | {"options": options}
    for value in (*args, *kwargs.values()):
        if not (value is None or isinstance(value, PLAIN)):
            raise StorageError(
                f"{kind} was made with {shown(value)}, so it must implement new_empty"
            )
    return args, kwargs


def rebuild(store: Rebuildable, rows: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Let a store take over the attributes of a new one that holds these rows only.

    A change that failed seldom makes it impossible to look keys up by row. The key that was added
    last shows whether the right ones came.

    Parameters
    ----------
    store : MemoryStore
    rows : iterable of tuple of Tensor
        All keys and values that count, ``[H, n, D]`` each.

    Returns
    -------
    int
        0, the number of forgotten keys: the new store counts these keys from there.

    Raises
    ------
    StorageError
        They are not what was added, or a new store would not be where the old one is.
    """
    kind = type(store)
    if store.has_directory or store._made_with[1].get("directory") is not None:
        raise StorageError(f"with a directory, {kind.__name__} must implement undo_rows")
    twin = store.new_empty()
    if type(twin) is not kind or any(getattr(each, "__slots__", ()) for each in kind.mro()):
        raise StorageError(f"{kind.__name__} must implement undo_rows")
    twin.start_at(store.first_id)
    for keys, values in rows:
        twin.add(keys, values)
    last, newest = twin._newest, store._newest
    if last is not None and newest is not None and not torch.equal(last, newest):
        raise StorageError("its last key is not the one that was added last")
    twin._guard = store._guard
    # The new store stays alive as long: its end might close what is the old one's now.
    vars(twin)["_rebuilt_as"] = twin
    store.__dict__ = vars(twin)
    return 0
