"""Attention to clusters on a CPU and adding to them, compiled by Numba.

They do what `fotmem_clusters.attending` and `fotmem_clusters.steps` do.
"""

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fotmem.stores import GrowingRows

DTYPES = (torch.float32, torch.bfloat16)


def compiled_for(stored: Tensor) -> Callable[..., Any] | None:
    """Return `attend_to_clusters`, compiled for such keys; None: it is not to be had."""
    return _compiled()[0] if _fits(stored) else None


def compiled_steps_for(keys: GrowingRows) -> Callable[..., Any] | None:
    """Return the class of compiled `Steps` for such keys; None: it is not to be had."""
    return _compiled()[1] if _fits(keys) else None


def _fits(stored: Tensor | GrowingRows) -> bool:
    return stored.device.type == "cpu" and stored.dtype in DTYPES


@functools.cache
def _compiled() -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    if find_spec("numba") is None:
        return None, None
    try:
        from fotmem_clusters.compiled.attending import attend_to_clusters
        from fotmem_clusters.compiled.steps import CompiledSteps
    except ImportError as error:  # it does not fit the installed NumPy, for example
        warnings.warn(f"clusters works without Numba, and slower: {error}", stacklevel=2)
        return None, None
    return attend_to_clusters, CompiledSteps
