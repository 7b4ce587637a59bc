"""Addresses for many files of one size: each is mapped where it belongs, side by side."""

import ctypes
import mmap
import os
import weakref
from io import FileIO
from typing import Any

FIXED = 0x10
"""``MAP_FIXED``, on Linux and macOS: place a map where the caller says."""
MOST = 2**15
"""Most files that a process maps at a time; Linux allows 65,530 maps, for whatever purpose."""


class FileSlots:
    """A range of memory of `count` slots, each of which holds `size` bytes of a file.

    A slot that no file is mapped into is memory of zeros, which takes none until it is written to.

    Parameters
    ----------
    count, size : int
        At least 1 each.

    Attributes
    ----------
    size : int
        Bytes from one slot to the next: `size`, rounded up to whole pages.
    memory : mmap.mmap

    Raises
    ------
    OSError, OverflowError
        There are not so many addresses.
    """

    _mapped = 0  # in this process

    def __init__(self, count: int, size: int) -> None:
        self.size = -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._mine = [0]  # files that are mapped here
        if _libc is None:
            self.memory = mmap.mmap(-1, count * self.size)
        else:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
            self.memory = mmap.mmap(-1, count * self.size, flags=flags)
            self._start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        weakref.finalize(self, _count_off, self._mine)

    def map(self, slot: int, file: FileIO) -> bool:
        """Map a file, which holds at least `size` bytes; return False where that is impossible.

        The pages belong to the system's cache of files: processes share them, and they are dropped
        when memory is short.
        """
        if _libc is None or FileSlots._mapped >= MOST:
            return False
        place, read = self._start + slot * self.size, mmap.PROT_READ
        size = min(self.size, os.fstat(file.fileno()).st_size)
        flags = mmap.MAP_PRIVATE | FIXED
        if _libc.mmap(place, size, read, flags, file.fileno(), 0) != place:
            return False
        self._mine[0] += 1
        FileSlots._mapped += 1
        self._advise("MADV_RANDOM", slot, slot + 1)
        return True

    def read_ahead(self, first: int, end: int) -> None:
        """Tell the system that slots from `first` to before `end` are read as a whole, and soon.

        Without that it reads the page that is asked for, and none beside it.
        """
        self._advise("MADV_WILLNEED", first, end)

    def _advise(self, advice: str, first: int, end: int) -> None:
        if hasattr(mmap, advice):
            start = first * self.size
            self.memory.madvise(getattr(mmap, advice), start, (end - first) * self.size)


def _count_off(mapped: list[int]) -> None:
    FileSlots._mapped -= mapped[0]


def _system_library() -> Any:
    """Return the C library with its `mmap`; None on Windows, which places no map on request."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_int
    library.mmap.restype = ctypes.c_size_t
    library.mmap.argtypes = [
        *(ctypes.c_size_t, ctypes.c_size_t),
        *(number, number, number),
        ctypes.c_longlong,
    ]
    return library


_libc = _system_library()
