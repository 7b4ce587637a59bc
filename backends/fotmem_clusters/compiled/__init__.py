"""Attention to clusters on a CPU, compiled by Numba: what `fotmem_clusters.attending` does."""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)


def compiled_for(stored: Tensor) -> Callable[..., Any] | None:
    """Return `attend_to_clusters`, compiled for such keys; None: it is not to be had."""
    return _compiled() if stored.is_cpu and stored.dtype in DTYPES else None


@functools.cache
def _compiled() -> Callable[..., Any] | None:
    if importlib.util.find_spec("numba") is None:
        return None
    _remove_stale()
    try:
        from fotmem_clusters.compiled.attending import attend_to_clusters
    except ImportError as error:  # it does not fit the installed NumPy, for example
        warnings.warn(f"clusters works without Numba, and slower: {error}", stacklevel=2)
        return None
    return attend_to_clusters


def _remove_stale() -> None:
    """Remove what was compiled before a file of this package changed.

    Numba looks at the file of a function only, not at what that imports.
    """
    here = Path(__file__).parent
    with suppress(OSError):
        newest = max(each.stat().st_mtime for each in here.parent.rglob("*.py"))
        for kept in here.glob("__pycache__/*.nb[ic]"):
            if kept.stat().st_mtime < newest:
                kept.unlink(missing_ok=True)
