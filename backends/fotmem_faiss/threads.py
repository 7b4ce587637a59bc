"""How many threads FAISS works with."""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import torch


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """Let FAISS, called by this thread, use so many threads; None: as many as torch."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
