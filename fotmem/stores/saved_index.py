"""An index as arrays, which can be kept beside the keys that it was built from."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fotmem.disk import UnreadBytes

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name: letters, digits, ``_`` and ``/``."""


@dataclass(frozen=True)
class SavedIndex:
    """What a store needs to search the same keys without building its index again."""

    made_by: dict[str, Any]
    """Library and version, sizes, and the options that shape an index. JSON; a store loads an index
    only if these are equal to its own."""
    rows: int
    """The index knows the keys before this row."""
    arrays: Arrays
    """What the index is."""
    unread: Mapping[str, UnreadBytes] = field(default_factory=dict)
    """Those of a file that the store reads and verifies itself: `MemoryStore.self_checked`."""


def file_to_array(save: Callable[[str], object]) -> NDArray[np.uint8]:
    """Return what a library saves to a file, as bytes.

    Parameters
    ----------
    save : callable
        Takes the path of an empty temporary file, and writes it.
    """
    with _temporary_file() as path:
        save(path)
        return np.fromfile(path, dtype=np.uint8)


def array_to_file(array: NDArray[Any], load: Callable[[str], object]) -> None:
    """Let a library load a file of these bytes.

    Parameters
    ----------
    array : ndarray
        From `file_to_array`.
    load : callable
        Takes the path of a temporary file.
    """
    with _temporary_file() as path:
        array.tofile(path)
        load(path)


@contextmanager
def _temporary_file() -> Iterator[str]:
    """Yield the path of an empty file; on Linux, it is gone even if the process is killed."""
    try:
        handle = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR, 0o600)
    except (AttributeError, OSError):  # another system, or a file system that cannot
        with tempfile.NamedTemporaryFile(prefix="fotmem-index-") as file:
            yield file.name
        return
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def writable_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor of a saved array, which may be read-only, copied."""
    return torch.from_numpy(np.array(array))


def part_of(arrays: Arrays, name: str) -> Arrays:
    """Return the arrays whose names begin with ``name/``, without that."""
    begin = f"{name}/"
    return {key.removeprefix(begin): a for key, a in arrays.items() if key.startswith(begin)}


def named_parts(name: str, arrays: Arrays) -> Arrays:
    """Put ``name/`` before the names of arrays."""
    return {f"{name}/{key}": array for key, array in arrays.items()}
