"""Captures of existing arrays, such as the data sets of ann-benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fotmem.arguments import checked_number
from fotmem.errors import InputError, require_packages
from fotmem.measure.capture.info import CaptureInfo, KeyValues, doublings
from fotmem.measure.capture.layout import Capture

Array = NDArray[Any]


def capture_arrays(
    directory: Path | str,
    keys: Array,
    queries: Array,
    values: Array | None = None,
    *,
    scale: float | None = None,
    source: dict[str, Any] | None = None,
) -> Capture:
    """Make a capture of arrays: one layer, number 0, with the same queries after every size.

    Parameters
    ----------
    directory : Path or str
        A new folder.
    keys : array
        Shape ``[H, N, D]``, or ``[N, D]`` for a single head; any real dtype. They are read part by
        part, and may be a memory map.
    queries : array
        Shape ``[H, Q, D]``, or ``[Q, D]``.
    values : array, optional
        Shape as `keys`. Default: the keys; attention then returns a mean of keys.
    scale : float, optional
        Factor of the inner products. Default: ``1 / sqrt(D)``.
    source : dict, optional
        Origin of the arrays. Default: ``{"kind": "arrays"}``.

    Raises
    ------
    InputError
        Shapes do not match, a dtype is not real, or there is NaN or Inf.
    OptionError
        `scale` is not a number above 0.
    StorageError
        As `Capture.writing`.
    """
    values = keys if values is None else values
    Capture.check_place(directory)
    heads, tokens, dim = _shape("keys", keys)
    if _shape("values", values) != (heads, tokens, dim):
        raise InputError(f"values must have the shape of keys, {keys.shape}, got {values.shape}")
    if _shape("queries", queries)[::2] != (heads, dim):
        raise InputError(
            f"queries must have as many heads and dimensions as keys, {keys.shape}, got "
            f"{queries.shape}"
        )
    scale = dim**-0.5 if scale is None else scale
    scale = checked_number("scale", scale, kind="a number above 0", above=0)
    asked = _floats("queries", queries, 0, None)
    info = CaptureInfo(
        source=source or {"kind": "arrays"},
        layers=(0,),
        num_heads=heads,
        head_dim=dim,
        scale=scale,
        tokens=tokens,
        sizes=doublings(tokens),
        queries=asked.shape[1],
    )
    with Capture.writing(directory, info, whole=True) as capture:
        for _ in info.sizes[capture.asked :]:
            capture.write_queries({0: asked})
        for span in capture.missing:
            both = (("keys", keys), ("values", values))
            pair = (_floats(name, array, span.start, span.stop) for name, array in both)
            capture.write_part({0: KeyValues(*pair)})
    return Capture.open(directory)


def capture_files(
    directory: Path | str, keys: Path, queries: Path, values: Path | None = None
) -> Capture:
    """Make a capture of ``.npy`` files, as `capture_arrays` does of arrays."""
    source = {"kind": "npy", "keys": str(keys), "queries": str(queries), "values": str(values)}
    return capture_arrays(
        directory,
        _loaded(keys),
        _loaded(queries),
        None if values is None else _loaded(values),
        source=source,
    )


def capture_hdf5(directory: Path | str, file: Path) -> Capture:
    """Make a capture of a data set of ann-benchmarks: ``train`` are the keys, ``test`` the queries.

    Memory is searched by inner product. Vectors of a set with ``angular`` distance are normalised,
    which ranks keys by their angles. Vectors of other sets are unchanged. The neighbours in the
    file are not used.

    Raises
    ------
    InputError
        The file is not such a data set.
    MissingPackageError
        h5py is not installed.
    """
    require_packages("HDF5 files", "h5py")
    import h5py

    try:
        opened = h5py.File(file, "r")
    except OSError as error:
        raise InputError(f"{file} cannot be read as HDF5: {error}") from error
    with opened:
        missing = {"train", "test"} - set(opened)
        if missing:
            raise InputError(
                f"{file} has {', '.join(sorted(opened)) or 'nothing'}; a data set of "
                "ann-benchmarks has train (keys) and test (queries)"
            )
        distance = str(opened.attrs.get("distance", ""))
        source = {"kind": "hdf5", "file": Path(file).name, "distance": distance}
        keys, queries = opened["train"], opened["test"]
        if distance == "angular":
            keys = normalize(torch.from_numpy(keys[:]).float(), dim=-1).numpy()
        return capture_arrays(directory, keys, queries, source=source)


def _shape(name: str, array: Array) -> tuple[int, int, int]:
    """Return ``H``, ``N`` and ``D``; an array with two dimensions has one head."""
    if not (hasattr(array, "ndim") and hasattr(array, "dtype")):
        raise InputError(f"{name} must be an array, got {type(array).__name__}")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{name} must have shape [H, n, D], or [n, D] of one head, and not be empty, got "
            f"{list(array.shape)}"
        )
    heads, count, dim = (1, *array.shape)[-3:]
    return heads, count, dim


def _floats(name: str, array: Array, start: int, stop: int | None) -> Tensor:
    """Read a part as float32 ``[H, n, D]``."""
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} must be real numbers, got {array.dtype}")
    try:
        with np.errstate(over="ignore"):  # refused below
            some = np.asarray(array[..., start:stop, :], dtype=np.float32)
    except (OSError, RuntimeError, ValueError) as error:  # HDF5's, where the file is damaged
        raise InputError(f"{name} cannot be read: {error}") from error
    if not np.isfinite(some).all():
        raise InputError(f"{name} must be finite in float32; there is NaN, Inf or a larger number")
    return torch.from_numpy(some.reshape(-1, *some.shape[-2:]))


def _loaded(file: Path) -> Array:
    try:
        loaded: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, ArithmeticError, MemoryError) as error:
        # numpy would advise to unpickle files that are not its own.
        reason = "it is none, or holds objects" if "pickle" in str(error) else error
        raise InputError(
            f"{file} cannot be read as .npy: {reason}; save an array of numbers with numpy.save"
        ) from error
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{file} holds several arrays (.npz): save each as .npy")
    return loaded
