"""Attention to clusters on a CPU, compiled by Numba: what `fotmem_clusters.attending` does."""

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


def compiled_for(stored: Tensor) -> Callable[..., Any] | None:
    """Return `attend_to_clusters`, compiled for such keys; None: it is not to be had."""
    return _compiled() if stored.is_cpu and stored.dtype in DTYPES else None


@functools.cache
def _compiled() -> Callable[..., Any] | None:
    if find_spec("numba") is None:
        return None
    try:
        from fotmem_clusters.compiled.attending import attend_to_clusters
    except ImportError as error:  # it does not fit the installed NumPy, for example
        warnings.warn(f"clusters works without Numba, and slower: {error}", stacklevel=2)
        return None
    return attend_to_clusters
