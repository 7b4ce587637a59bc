"""Builds a store anew from the keys and values that count, after a change of it failed."""

from collections.abc import Iterable
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import Tensor

from fotmem.errors import StorageError, shown

if TYPE_CHECKING:
    from fotmem.stores.store import MemoryStore


PLAIN = (int, float, str, bytes, tuple, Enum, PurePath, BaseModel, torch.dtype, torch.device)
"""What two stores may be made with: nobody changes it."""


def twin_of(store: "MemoryStore", args: tuple[Any, ...], kwargs: dict[str, Any]) -> "MemoryStore":
    """Make an empty store of the class and arguments of another one, without a directory.

    Raises
    ------
    StorageError
        It was made with something that two stores would share.
    """
    if "directory" in kwargs:
        kwargs = kwargs | {"directory": None}
    if "options" in kwargs:  # `tune` changes them
        kwargs = kwargs | {"options": getattr(store, "options", kwargs["options"])}
    for value in (*args, *kwargs.values()):
        if not (value is None or isinstance(value, PLAIN)):
            raise StorageError(
                f"{type(store).__name__} was made with {shown(value)}, so it must implement "
                "new_empty"
            )
    return type(store)(*args, **kwargs)


def rebuild(store: "MemoryStore", rows: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Let a store take over the attributes of a new one that holds these rows only.

    A change that was broken off seldom makes it impossible to look keys up by id; whether the right
    ones came is seen by the one that was added last.

    Parameters
    ----------
    store : MemoryStore
    rows : iterable of tuple of Tensor
        All keys and values that count, ``[H, n, D]`` each.

    Returns
    -------
    int
        0: the new store counts these keys from there.

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
