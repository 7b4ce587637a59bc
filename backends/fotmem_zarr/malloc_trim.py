"""Gives freed memory back to the system."""

import ctypes
import sys


def trim() -> None:
    """Let glibc give back the pages that it keeps between blocks in use; elsewhere do nothing.

    Rows, chunks and temporaries of all sizes come and go: what lies free between them can be as
    much as what is in use. Takes about a millisecond.
    """
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)
