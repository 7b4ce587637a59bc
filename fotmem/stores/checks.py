"""Checks what callers pass to a store, and what their functions return."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fotmem.arguments import checked_integer
from fotmem.errors import (
    DtypeError,
    IdError,
    NonFiniteError,
    OptionError,
    ShapeError,
    shown,
)
from fotmem.stores.hits import Bias
from fotmem.stores.id_ranges import IdRanges

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What a store accepts and keeps."""
MOST = 2**31 - 1
"""Heads, dimensions of a key, or hits of a query, at most."""


def checked_sizes(num_heads: object, head_dim: object) -> tuple[int, int]:
    """Take the heads ``H`` and the head dimension ``D`` of a layer."""
    heads = checked_integer("num_heads", num_heads, least=1, most=MOST)
    return heads, checked_integer("head_dim", head_dim, least=1, most=MOST)


def checked_top_k(top_k: object) -> int:
    """Take a number of hits per query."""
    return checked_integer("top_k", top_k, least=1, most=MOST)


def require_tensor(name: str, tensor: object) -> None:
    """Raise `DtypeError` unless it is a dense tensor that holds numbers."""
    if not isinstance(tensor, Tensor):
        cure = "convert with torch.as_tensor(...)"
        raise DtypeError(name, expected="a torch.Tensor", actual=type(tensor), cure=cure)
    if tensor.is_nested:
        cure = "convert with torch.stack(...)"
        raise DtypeError(name, expected="a dense tensor", actual="nested", cure=cure)
    if tensor.layout is not torch.strided:
        cure = "convert with .to_dense()"
        raise DtypeError(name, expected="a dense tensor", actual=tensor.layout, cure=cure)
    if tensor.is_meta:
        cure = "compute it on a device that keeps data, such as 'cpu'"
        raise DtypeError(name, expected="a tensor with data", actual="meta", cure=cure)


def require_dtype(name: str, tensor: Tensor) -> None:
    """Raise `DtypeError` unless its dtype is one of `DTYPES`."""
    if tensor.dtype not in DTYPES:
        cure = "convert with .dequantize()" if tensor.is_quantized else "convert with .to(...)"
        raise DtypeError(name, expected=NAMES, actual=tensor.dtype, cure=cure)


def require_shape(name: str, tensor: Tensor, axis: str, *, heads: int, head_dim: int) -> None:
    """Raise `ShapeError` unless it is ``[H, n, D]``; `axis` is the letter of the second."""
    if tensor.ndim != 3 or tensor.shape[0] != heads or tensor.shape[2] != head_dim:
        expected = f"[H={heads}, {axis}, D={head_dim}]"
        raise ShapeError(name, expected=expected, actual=tensor.shape)


def require_ids(ids: Tensor, *, heads: int, start: int, first: int, end: int) -> None:
    """Raise unless these are ids ``[H, Q, K]`` from `first` to before `end`, or -1.

    A store gave out ids from `start` on; those before `first` are forgotten.
    """
    require_tensor("ids", ids)
    if ids.dtype != torch.int64:
        raise DtypeError("ids", expected="int64", actual=ids.dtype)
    if ids.ndim != 3 or ids.shape[0] != heads:
        raise ShapeError("ids", expected=f"[H={heads}, Q, K]", actual=ids.shape)
    outside = ids[(ids != -1) & ((ids < first) | (ids >= end))]
    if outside.numel():
        raise IdError(int(outside[0]), start=start, first=first, end=end)


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise `NonFiniteError` if it holds NaN or Inf."""
    # One pass without a temporary: a finite sum is one of finite numbers; huge ones may overflow.
    if math.isfinite(tensor.sum().item()) or (finite := tensor.isfinite()).all():
        return
    bad = (~finite).nonzero()[0].tolist()
    raise NonFiniteError(name, f"{bad} of {list(tensor.shape)}")


def checked_scale(scale: object) -> float:
    """Take a factor of inner products: a number above 0."""
    if type(scale) is not float:
        if isinstance(scale, bool) or not isinstance(scale, Real):
            raise OptionError(
                f"scale must be a number, usually 1 / sqrt(head_dim), got {shown(scale)}; "
                "pass a float"
            )
        try:
            scale = float(scale)
        except OverflowError:
            scale = math.inf
    if not 0 < scale < math.inf:
        raise OptionError(
            f"scale must be above 0 and finite, usually 1 / sqrt(head_dim), got {scale!r}"
        )
    return scale


@dataclass(frozen=True, eq=False)
class CheckedBias:
    """A function of ids, such that what it returns is checked.

    Two are equal where their functions are dataclasses with equal fields. A plain function equals
    no other: it may return something else the next time.

    Parameters
    ----------
    bias : callable
    later : callable
        On CUDA, where no query waits for the device, it takes a bool ``[]``: whether all is well.
    """

    bias: Bias
    later: Callable[[Tensor], None]

    def __post_init__(self) -> None:
        if not callable(self.bias):
            raise OptionError(
                "bias must be None, or a function that takes ids and returns what is added to "
                f"scores, got {shown(self.bias)}"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CheckedBias):
            return False
        return is_dataclass(self.bias) and self.bias == other.bias

    def __hash__(self) -> int:
        return hash(type(self.bias))

    def __call__(self, ids: Tensor) -> Tensor:
        """Return what is added to the scores of ids."""
        name, found = "what bias returns", cast(Any, self.bias(ids))
        require_tensor(name, found)
        if found.dtype != torch.float32:
            raise DtypeError(name, expected="float32", actual=found.dtype)
        if found.shape != ids.shape:
            expected = f"{list(ids.shape)} as the ids that it got"
            raise ShapeError(name, expected=expected, actual=found.shape)
        if found.device != ids.device:
            raise OptionError(
                f"{name} must be on {ids.device} as the ids that it got, got {found.device}; "
                "move it with .to(ids.device)"
            )
        below = found < torch.inf  # NaN is not
        if not found.is_cpu:
            self.later(below.all())
        elif not below.all():
            bad = (~below).nonzero()[0].tolist()
            raise NonFiniteError(name, f"{bad} of {list(found.shape)}")
        detached: Tensor = found.detach()
        return detached


def checked_among(among: object) -> IdRanges:
    """Take a set of ids."""
    if not isinstance(among, IdRanges):
        raise OptionError(
            f"among must be None, for all ids, or IdRanges, got {shown(among)}; "
            "such as fotmem.stores.IdRanges([(0, 100)])"
        )
    return among


def checked_dtype(dtype: object) -> torch.dtype:
    """Take one of `DTYPES`."""
    if not (isinstance(dtype, torch.dtype) and dtype in DTYPES):
        cure = "pass a torch.dtype, such as torch.bfloat16"
        raise DtypeError("dtype", expected=NAMES, actual=dtype, cure=cure)
    return dtype


def named_device(device: object) -> torch.device:
    """Take a device, or the name of one, whether or not this machine has it."""
    try:
        if isinstance(device, str | torch.device):
            return torch.device(device)
    except RuntimeError:
        pass
    raise OptionError(
        f"device must name a torch device, got {shown(device)}; such as 'cpu', 'cuda' or 'cuda:0'"
    )


def usable_device(device: object) -> torch.device:
    """Take a device, or the name of one, on which this machine can make tensors."""
    named = named_device(device)
    if named.type == "meta":
        raise OptionError("device must be one that keeps data, such as 'cpu', got 'meta'")
    try:
        return torch.empty(1, device=named).device
    except Exception as error:  # each backend has its own
        reason = str(error).strip().partition("\n")[0]
        raise OptionError(
            f"device {str(named)!r} cannot be used here ({reason}); there is 'cpu'"
        ) from error


def checked_directory(directory: object) -> Path | str | None:
    """Take a path, or a URL: a str with ``://`` in it, which stays a str."""
    try:
        path = None if directory is None else os.fspath(directory)  # type: ignore[call-overload]
    except TypeError:
        path = b""
    if path is not None and not (isinstance(path, str) and path):
        raise OptionError(
            "directory must be a path or a URL, as a string or pathlib.Path, "
            f"got {shown(directory)}; None keeps the store in memory"
        )
    if path is None:
        return None
    return path if "://" in path and isinstance(directory, str) else Path(path)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


NAMES = _names(DTYPES)
