"""Returns freed memory to the system."""

import ctypes
import sys


def trim_malloc() -> None:
    """Let glibc return the free pages between blocks in use; do nothing on other systems.

    Rows, chunks and temporaries of all sizes come and go. The free memory between them can be as
    much as the memory in use. A call takes about a millisecond.
    """
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)
