"""Rows that grow: the keys or the values of a store, in memory or on disk."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fotmem.stores.buffers import FileRoom, Place, Room, room_in_memory

SMALLEST = 2**8
"""Rows that there is room for, at least."""


class _Held(NamedTuple):
    """Rows that are there; replaced as a whole, so that searching threads see one state."""

    room: Room
    first: int  # id of its row 0
    end: int  # id of the first row that is not filled


class GrowingRows:
    """Vectors ``[H, N, D]`` that are added at the end and forgotten from the start.

    They lie side by side, so that looking up and searching takes one call. Few rows move to twice
    the room as they grow; many lie in so large a space that they need not, and of which what is not
    written yet takes no memory. Reading is safe while another thread adds.

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
        self._held = _Held(self._new_room(0), 0, 0)
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
        return self._held.room.disk_bytes

    def reserve(self, count: int) -> None:
        """Make room for so many rows, so that adding them cannot fail."""
        room, first, end = self._held
        size = end - first
        if self._shared or size + count > room.rows.shape[1]:
            self._move(first, max(size + count, 2 * size, SMALLEST))
        self._held.room.prepare(size + count)

    def add(self, rows: Tensor) -> None:
        """Append ``[H, n, D]``; copied."""
        self.reserve(rows.shape[1])
        room, first, end = self._held
        room.rows[:, end - first : end - first + rows.shape[1]] = rows
        self._held = _Held(room, first, end + rows.shape[1])

    def truncate(self, end: int) -> None:
        """Take back the rows from `end` on."""
        self._held = self._held._replace(end=max(end, self._held.first))

    def take(self, ids: Tensor) -> Tensor:
        """Look up rows of ids ``[H, Q, K]``: ``[H, Q, K, D]`` on their device.

        An id before the first that is held, such as -1, gives the row of that one.
        """
        whole, first, room = self.flat()
        starts = torch.arange(self.num_heads, device=self.device) * room - first
        flat = ids.to(self.device).clamp(min=first).flatten(1) + starts[:, None]
        found = whole.index_select(0, flat.flatten())
        return found.view(*ids.shape, self.head_dim).to(ids.device)

    def flat(self) -> tuple[Tensor, int, int]:
        """View all rows as one list ``[H * room, D]``; with the first id held, and ``room``.

        A head's row of an id is at ``head * room + id - first``.
        """
        room, first, _ = self._held
        return room.rows.view(-1, self.head_dim), first, room.rows.shape[1]

    def since(self, start: int) -> tuple[int, Tensor]:
        """View the rows from `start` on: id of the first that is held, and ``[H, n, D]``."""
        room, held, end = self._held
        first = max(start, held)
        return first, room.rows[:, first - held : end - held]

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
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        self._shared = twin._shared = True
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle, and copy deeply, what is there, not the room for more."""
        first, rows = self.since(0)
        kind = self.num_heads, self.head_dim, self.dtype, self.device, self.place
        return _restored, (*kind, first, rows.clone())

    def _move(self, first: int, capacity: int) -> None:
        """Move the rows from `first` on to where there is room for `capacity`."""
        _, rows = self.since(first)
        room = self._new_room(capacity)
        room.prepare(rows.shape[1])
        room.rows[:, : rows.shape[1]] = rows
        self._held, self._shared = _Held(room, first, self._held.end), False

    def _new_room(self, capacity: int) -> Room:
        if self.place == "mmap" and capacity:
            return FileRoom(self.num_heads, capacity, self.head_dim, self.dtype)
        return room_in_memory(self.num_heads, capacity, self.head_dim, self.dtype, self.device)


def _restored(
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    place: Place,
    first: int,
    rows: Tensor,
) -> GrowingRows:
    new = GrowingRows(num_heads, head_dim, dtype=dtype, device=device, place=place)
    new._held = new._held._replace(first=first, end=first)
    new.add(rows)
    return new
