"""Finds out whether reading a directory unpickles files, which may run any code."""

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

_exploded: list[str] = []


def explode() -> None:
    """Record that a planted pickle was read."""
    _exploded.append("")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


def _plant_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(_Bomb()))


def _plant_torch(file: Path) -> None:
    with file.open("wb") as stream:
        torch.save({"rows": _Bomb()}, stream)


def _plant_numpy(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.array([_Bomb()], dtype=object), allow_pickle=True)


PLANTS: dict[str, Callable[[Path], None]] = {
    "a pickle": _plant_pickle,
    "a file of torch.save": _plant_torch,
    "an array of NumPy with objects": _plant_numpy,
}
"""Replacements of a store's file; unpickling one calls `explode`."""


@contextmanager
def unpickling() -> Iterator[list[str]]:
    """Yield the places where this thread, or one that it starts, unpickles."""
    found: list[str] = []
    _exploded.clear()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if (event == "c_call" and _unpickles(argument)) or (
            event == "call" and frame.f_code is pickle._Unpickler.load.__code__
        ):
            name = frame.f_globals.get("__name__", "")
            found.append(f"{name}.{frame.f_code.co_qualname}, line {frame.f_lineno}")

    before = sys.getprofile()
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(before)
        found += ["the planted one"] * len(_exploded)


def _unpickles(function: Any) -> bool:
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    if isinstance(owner, pickle.Unpickler):
        return name == "load"
    return getattr(function, "__module__", "") == "_pickle" and name in {"load", "loads"}
