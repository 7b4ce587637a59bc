"""Rows that grow: the keys or the values of a store, in memory or on disk."""

import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from fotmem.errors import StorageError

Place = Literal["ram", "mmap"]
"""Where rows are kept: ``"ram"`` (or the device), or ``"mmap"``, a temporary file."""

SMALLEST = 2**8
"""Rows that there is room for, at least."""
AHEAD = 8
"""Rows that move ahead of time with each one added, while the last eighth of the room fills."""


class _Held(NamedTuple):
    """Rows that are there; replaced as a whole, so that searching threads see one state."""

    whole: Tensor  # [H, capacity, D]
    first: int  # id of its row 0
    end: int  # id of the first row that is not filled


class Rows:
    """Vectors ``[H, N, D]`` that are added at the end and forgotten from the start.

    They lie side by side, so that looking up and searching takes one call. Before there is no room
    left, they move to twice as much, some with each add, so that none takes long: most of the new
    room is not written yet, and takes no memory until it is. Reading is safe while another thread
    adds.

    Parameters
    ----------
    num_heads, head_dim : int
        ``H`` and ``D``.
    dtype : torch.dtype
    device : torch.device
    place : {"ram", "mmap"}
        ``"mmap"``: in unnamed temporary files (in the folder that ``TMPDIR`` names), of which the
        operating system keeps in memory what fits and is used. They vanish with the process,
        whatever ends it.

    Raises
    ------
    StorageError
        From `reserve` and `add`, with ``"mmap"``: the disk is full. Nothing was added.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        place: Place = "ram",
    ) -> None:
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dtype = dtype
        self.device = device
        self.place = place
        self._held = _Held(self._new(0), 0, 0)
        self._next: Tensor | None = None  # where rows will move to
        self._moved = 0  # so many of those held are there
        self._shared = False  # with a copy: nothing may be written

    def __len__(self) -> int:
        """Return the id that the next row gets: rows ever added."""
        return self._held.end

    @property
    def first(self) -> int:
        """Id of the oldest row that is still held."""
        return self._held.first

    @property
    def disk_bytes(self) -> int:
        """Bytes that are reserved on disk: 0 for ``"ram"``."""
        rooms = [self._held.whole, *([] if self._next is None else [self._next])]
        return sum(room.nbytes for room in rooms) if self.place == "mmap" else 0

    def reserve(self, count: int) -> None:
        """Make room for so many rows, so that adding them cannot fail."""
        whole, first, end = self._held
        size, room = end - first, whole.shape[1]
        if self._shared or size + count > room:
            self._move(first, max(size + count, 2 * size, SMALLEST))
        elif self._next is None and AHEAD * (room - size) <= room and whole.is_cpu:
            self._next = self._new(2 * room)

    def add(self, rows: Tensor) -> None:
        """Append ``[H, n, D]``; copied."""
        self.reserve(rows.shape[1])
        whole, first, end = self._held
        whole[:, end - first : end - first + rows.shape[1]] = rows
        self._held = _Held(whole, first, end + rows.shape[1])
        if self._next is not None:
            start, stop = self._moved, min(self._moved + AHEAD * rows.shape[1], len(self) - first)
            self._next[:, start:stop] = whole[:, start:stop]
            self._moved = stop
            if stop == len(self) - first:  # all are there: what they leave is free at once
                self._move(first, self._next.shape[1])

    def put(self, first: int, rows: Tensor) -> None:
        """Write ``[H, n, D]`` over the rows from `first` on, all of which are held."""
        if self._shared:
            self.reserve(0)
        start = first - self._held.first
        self._held.whole[:, start : start + rows.shape[1]] = rows
        self._moved = min(self._moved, start)

    def truncate(self, end: int) -> None:
        """Take back the rows from `end` on."""
        self._held = self._held._replace(end=max(end, self._held.first))
        self._moved = min(self._moved, self._held.end - self._held.first)

    def take(self, ids: Tensor) -> Tensor:
        """Look up rows of ids ``[H, Q, K]``: ``[H, Q, K, D]`` on their device.

        An id before the first that is held, such as -1, gives the row of that one.
        """
        whole, first, _ = self._held
        room = max(1, whole.shape[1])
        heads = torch.arange(-first, self.num_heads * room - first, room, device=self.device)
        flat = ids.to(self.device).clamp(min=first).flatten(1) + heads[:, None]
        found = whole.view(-1, self.head_dim).index_select(0, flat.flatten())
        return found.view(*ids.shape, self.head_dim).to(ids.device)

    def flat(self) -> tuple[Tensor, int, int]:
        """View all rows as one list ``[H * room, D]``; with the first id held, and ``room``.

        A head's row of an id is at ``head * room + id - first``.
        """
        whole, first, _ = self._held
        return whole.view(-1, self.head_dim), first, whole.shape[1]

    def since(self, start: int) -> tuple[int, Tensor]:
        """View the rows from `start` on: id of the first that is held, and ``[H, n, D]``."""
        whole, held, end = self._held
        first = max(start, held)
        return first, whole[:, first - held : end - held]

    def blocks(self, start: int, stop: int, length: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the rows from `start` to before `stop`, at most `length` at a time.

        Yields
        ------
        tuple of int and Tensor
            Id of the first row, and a view ``[H, n, D]``.
        """
        first, rows = self.since(start)
        for begin in range(0, stop - first, length):
            yield first + begin, rows[:, begin : min(begin + length, stop - first)]

    def forget(self, first: int) -> None:
        """Free the rows before row `first`, as soon as they are half of those held."""
        _, held, end = self._held
        if 2 * (first - held) >= end - held:
            self._move(first, end - first)

    def copy(self) -> Self:
        """Return independent rows; they share what is there until either is added to."""
        twin = copy.copy(self)
        self._shared = twin._shared = True
        twin._next, twin._moved = None, 0
        return twin

    def _move(self, first: int, capacity: int) -> None:
        """Move the rows from `first` on to where there is room for `capacity`."""
        whole, moved = self._next, self._moved
        if whole is None or first != self._held.first or whole.shape[1] < capacity:
            whole, moved = self._new(capacity), 0
        _, rows = self.since(first)
        whole[:, moved : rows.shape[1]] = rows[:, moved:]
        self._held, self._shared = _Held(whole, first, self._held.end), False
        self._next, self._moved = None, 0

    def _new(self, capacity: int) -> Tensor:
        shape = (self.num_heads, capacity, self.head_dim)
        if self.place == "mmap" and capacity:
            return _on_disk(shape, self.dtype)
        with torch.inference_mode(False):  # or nothing could be added later
            return torch.empty(shape, dtype=self.dtype, device=self.device)


def _on_disk(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Map a temporary file without a name; its space is reserved, so that writing cannot fail."""
    size = torch.Size(shape).numel()
    try:
        descriptor, name = tempfile.mkstemp(prefix="fotmem-")
    except OSError as error:
        raise _no_room(size * dtype.itemsize, error) from error
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, max(1, size * dtype.itemsize))
        return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
    except OSError as error:
        raise _no_room(size * dtype.itemsize, error) from error
    finally:
        os.close(descriptor)
        Path(name).unlink()


def _no_room(size: int, error: OSError) -> StorageError:
    return StorageError(
        f"no room for {size:,} bytes in {tempfile.gettempdir()} ({error.strerror}): let TMPDIR "
        "name a folder with more, or keep rows in 'ram'"
    )
