"""How many threads FAISS works with."""

from collections.abc import Callable
from typing import TypeVar

import faiss
import torch

Result = TypeVar("Result")


def faiss_threads(threads: int | None, call: Callable[[], Result]) -> Result:
    """Call something while FAISS uses this number of threads; None: as many as torch."""
    before, wanted = faiss.omp_get_max_threads(), threads or torch.get_num_threads()
    if before == wanted:
        return call()
    try:
        try:
            faiss.omp_set_num_threads(wanted)
            return call()
        finally:
            faiss.omp_set_num_threads(before)
    finally:  # once more: Ctrl-C may have come in between
        faiss.omp_set_num_threads(before)
