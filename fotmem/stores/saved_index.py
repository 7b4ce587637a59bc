"""An index as arrays, which can be kept beside the keys that it was built from."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def file_to_array(save: Callable[[str], object]) -> NDArray[np.uint8]:
    """Return what a library saves to a file, as bytes.

    Parameters
    ----------
    save : callable
        Takes the path of a file that does not exist yet, in a temporary folder, and writes it.
    """
    with tempfile.TemporaryDirectory(prefix="fotmem-index-") as folder:
        path = Path(folder) / "index"
        save(str(path))
        return np.fromfile(path, dtype=np.uint8)


def array_to_file(array: NDArray[Any], load: Callable[[str], object]) -> None:
    """Let a library load a file of these bytes.

    Parameters
    ----------
    array : ndarray
        From `file_to_array`.
    load : callable
        Takes the path of a file in a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="fotmem-index-") as folder:
        path = Path(folder) / "index"
        array.tofile(path)
        load(str(path))


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
