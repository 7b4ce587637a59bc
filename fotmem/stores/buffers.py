"""Buffers for rows, in memory or in a file; what is not written yet takes no memory."""

import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fotmem.errors import StorageError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

Place = Literal["ram", "mmap"]
"""Where rows are kept: ``"ram"`` (or the device), or ``"mmap"``, a temporary file."""

SMALL = 2**24
"""Bytes up to which a buffer is no larger than asked for."""
SPACE = 2**36
"""Bytes of address space of a larger one, where the system allows it: its rows never move."""
AHEAD = 8
"""At least an eighth more is reserved on disk than there is."""


class Buffer:
    """A buffer for rows ``[H, capacity, D]``; `flat` are the same as ``[H * capacity, D]``."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.flat = rows, rows.view(-1, rows.shape[2])

    @property
    def disk_bytes(self) -> int:
        """Bytes that are reserved on disk."""
        return 0

    def prepare(self, count: int) -> None:
        """Reserve what the first `count` rows of each head need."""


def buffer_in_memory(
    num_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Buffer:
    """Make a buffer in memory, or on a device, for at least `capacity` rows of a head."""
    per_row = num_heads * head_dim * dtype.itemsize
    if device.type == "cpu" and capacity * per_row > SMALL:
        more = max(capacity, _free_space() // per_row)
        if more > capacity:
            with suppress(OSError):  # the system gives less
                space = mmap.mmap(-1, more * per_row, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                return Buffer(_seen_as(space, (num_heads, more, head_dim), dtype))
    with torch.inference_mode(False):  # or nothing could be added later
        return Buffer(torch.empty(num_heads, capacity, head_dim, dtype=dtype, device=device))


class FileBuffer(Buffer):
    """A buffer in a temporary file without a name; what is prepared is reserved on disk.

    The operating system keeps in memory what fits and is used; it vanishes with the process,
    whatever ends it. Parameters as for `buffer_in_memory`.

    Raises
    ------
    StorageError
        From here and `prepare`: the disk is full, or no file can be made.
    """

    def __init__(self, num_heads: int, capacity: int, head_dim: int, dtype: torch.dtype) -> None:
        self._row, self._prepared = head_dim * dtype.itemsize, 0
        per_row = num_heads * self._row
        try:
            file = tempfile.TemporaryFile(prefix="fotmem-")  # noqa: SIM115 - as long as the buffer
            weakref.finalize(self, file.close)
            self._file = file.fileno()
            space = None
            if capacity * per_row > SMALL and _free_space():
                with suppress(OSError):  # no file may be so large there
                    space = self._mapped(max(capacity, SPACE // per_row) * per_row)
            space = space or self._mapped(capacity * per_row)
        except OSError as error:
            raise _full(capacity * per_row, error) from error
        super().__init__(_seen_as(space, (num_heads, len(space) // per_row, head_dim), dtype))

    @property
    def disk_bytes(self) -> int:
        """Bytes that are reserved on disk."""
        return len(self.rows) * self._prepared * self._row

    def prepare(self, count: int) -> None:
        """Reserve disk space for them, and for some more."""
        if count <= self._prepared:
            return
        heads, capacity, _ = self.rows.shape
        stop = min(capacity, max(count, self._prepared + self._prepared // AHEAD))
        size = (stop - self._prepared) * self._row
        if hasattr(os, "posix_fallocate"):
            try:
                for head in range(heads):
                    start = (head * capacity + self._prepared) * self._row
                    os.posix_fallocate(self._file, start, size)
            except OSError as error:
                raise _full(heads * size, error) from error
        self._prepared = stop

    def _mapped(self, size: int) -> mmap.mmap:
        os.ftruncate(self._file, size)
        return mmap.mmap(self._file, size)


def _seen_as(space: mmap.mmap, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.frombuffer(space, dtype=dtype).view(shape)


def _free_space() -> int:
    """Count the bytes of address space that cost nothing until they are used."""
    if resource is None or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return 0
    strict = Path("/proc/sys/vm/overcommit_memory")
    if strict.exists() and strict.read_text().strip() == "2":
        return 0
    return min(SPACE, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _full(size: int, error: OSError) -> StorageError:
    try:
        place = tempfile.gettempdir()
    except OSError:
        place = "any folder for temporary files"
    return StorageError(
        f"no room for {size:,} bytes in {place} ({error.strerror}): let TMPDIR name a folder that "
        "can be written and has more, or keep rows in 'ram'"
    )
