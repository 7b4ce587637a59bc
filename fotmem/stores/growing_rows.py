"""Rows that grow: the keys or the values of a store, in memory or on disk."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fotmem.disk import DecodedRows, MappedRows
from fotmem.stores.buffers import Buffer, FileBuffer, Place, buffer_in_memory

SMALLEST = 2**8
"""Least rows of a buffer."""


class _Extent(NamedTuple):
    """The state of the rows; replaced as a whole, so that searching threads see one state."""

    buffer: Buffer
    first: int  # number of its first row
    end: int  # number of the next row
    mapped: MappedRows | DecodedRows | None = None  # the rows before the buffer's


class GrowingRows:
    """Vectors ``[H, N, D]`` that are added at the end and forgotten from the start.

    Rows are numbered from 0 in the order of adding. They lie side by side, so that looking up and
    searching take one call. A small buffer is replaced by one of twice the size when it is full; a
    large one has so much address space that rows never move, and what is not written yet takes no
    memory. Reading is safe while another thread adds.

    The first rows can be those of a directory, where they are: `begin_with`. Looking up rows and
    `blocks` are as quick then, but a view of them all would be a copy.

    Parameters
    ----------
    num_heads, head_dim : int
        ``H`` and ``D``.
    dtype : torch.dtype
    device : torch.device
    place : {"ram", "mmap"}
        ``"mmap"`` is an unnamed temporary file in the folder that ``TMPDIR`` names. The operating
        system keeps in memory what fits and is used. The file vanishes with the process, whatever
        ends it.

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
        self._heads = torch.arange(num_heads, device=device)[:, None, None]
        self._held = _Extent(self._new_buffer(0), 0, 0)
        self._shared = False  # with a copy: nothing may be written

    def __len__(self) -> int:
        """Count the rows ever added."""
        return self._held.end

    @property
    def first(self) -> int:
        """Number of the oldest row that is still held."""
        return 0 if self._held.mapped is not None else self._held.first

    @property
    def is_mapped(self) -> bool:
        """Whether the first rows lie in a directory."""
        return self._held.mapped is not None

    @property
    def disk_bytes(self) -> int:
        """Bytes that are reserved on disk: 0 for ``"ram"``."""
        return self._held.buffer.disk_bytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the rows that lie in a directory, without what had to be read from there."""
        mapped = self._held.mapped
        if mapped is None:
            return 0
        every = len(mapped) * self.num_heads * self.head_dim * self.dtype.itemsize
        return max(0, every - mapped.ram_bytes)

    def reserve(self, count: int) -> None:
        """Make room for `count` rows, so that adding them cannot fail."""
        buffer, first, end, _ = self._held
        size = end - first
        if self._shared or size + count > buffer.rows.shape[1]:
            self._move(first, max(size + count, 2 * size, SMALLEST))
        self._held.buffer.prepare(size + count)

    def add(self, rows: Tensor) -> None:
        """Append ``[H, n, D]``; copied."""
        self.reserve(rows.shape[1])
        buffer, first, end, mapped = self._held
        buffer.rows[:, end - first : end - first + rows.shape[1]] = rows
        self._held = _Extent(buffer, first, end + rows.shape[1], mapped)

    def truncate(self, end: int) -> None:
        """Remove the rows from `end` on."""
        self._held = self._held._replace(end=max(end, self._held.first))

    def begin_with(self, mapped: MappedRows | DecodedRows) -> None:
        """Take over rows of a directory, before any is added."""
        self._held = _Extent(self._held.buffer, len(mapped), len(mapped), mapped)

    def take(self, rows: Tensor) -> Tensor:
        """Look up rows by number ``[H, Q, K]``: ``[H, Q, K, D]`` on their device.

        A number before the first row that is held, such as -1, gives that first row.
        """
        return self._looked_up(rows.to(self.device), self._heads).to(rows.device)

    def take_of_heads(self, heads: Tensor, rows: Tensor) -> Tensor:
        """Look up rows of any shape ``[...]``, each of its own head: ``[..., D]``, on their device.

        `heads` is int64 and broadcasts to the shape of `rows`.
        """
        return self._looked_up(rows.to(self.device), heads.to(self.device)).to(rows.device)

    def _looked_up(self, rows: Tensor, heads: Tensor) -> Tensor:
        """Look up rows of any shape, of heads that broadcast to it."""
        buffer, first, _, mapped = self._held
        if mapped is not None:
            earlier = rows < first
            if earlier.all():
                return mapped.take(rows, heads).to(self.dtype)
        vectors, capacity = buffer.flat, buffer.rows.shape[1]
        places = rows.clamp(min=first) + (heads * capacity - first)
        found = vectors.index_select(0, places.flatten()).view(*rows.shape, self.head_dim)
        if mapped is not None and earlier.any():
            heads = heads.expand(rows.shape)
            found[earlier] = mapped.take(rows[earlier], heads[earlier]).to(self.dtype)
        return found

    def flat(self) -> tuple[Tensor, int, int]:
        """View the buffer as ``[H * capacity, D]``; also return the first row and the capacity.

        A row of a head is at ``head * capacity + row - first``. The view is the same tensor as long
        as the buffer is.
        """
        buffer, first, _, _ = self._held
        return buffer.flat, first, buffer.rows.shape[1]

    def since(self, start: int) -> tuple[int, Tensor]:
        """View the rows from `start` on: the first that is held, and ``[H, n, D]``."""
        buffer, held, end, mapped = self._held
        if mapped is not None and start < held:
            length = held - start
            earlier = [rows.to(self.dtype) for _, rows in mapped.blocks(start, held, length)]
            return start, torch.cat([*earlier, buffer.rows[:, : end - held]], 1)
        first = max(start, held)
        return first, buffer.rows[:, first - held : end - held]

    def blocks(self, start: int, stop: int, length: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the rows from `start` to before `stop`, about `length` at a time.

        Yields
        ------
        tuple of int and Tensor
            The first row, and a view ``[H, n, D]``.
        """
        _, held, _, mapped = self._held
        if mapped is not None and start < held:
            for first, rows in mapped.blocks(start, min(stop, held), length):
                yield first, rows.to(self.dtype)
        first, rows = self.since(max(start, held))
        for begin in range(0, stop - first, length):
            yield first + begin, rows[:, begin : min(begin + length, stop - first)]

    def forget(self, first: int) -> None:
        """Free the rows before `first`, once they are half of those held."""
        _, held, end, _ = self._held
        if first >= held:
            self._held = self._held._replace(mapped=None)
        if first > held and 2 * (first - held) >= end - held:
            self._move(first, end - first)

    def copy(self) -> Self:
        """Return independent rows, which share one buffer until either grows."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        self._shared = twin._shared = True
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle, and copy deeply, the rows, not the whole buffer."""
        first, rows = self.since(0)
        kind = self.num_heads, self.head_dim, self.dtype, self.device, self.place
        return _restored, (*kind, first, rows.clone())

    def _move(self, first: int, capacity: int) -> None:
        """Move the rows from `first` on to a new buffer."""
        _, rows = self.since(first)
        buffer = self._new_buffer(capacity)
        buffer.prepare(rows.shape[1])
        buffer.rows[:, : rows.shape[1]] = rows
        self._held, self._shared = self._held._replace(buffer=buffer, first=first), False

    def _new_buffer(self, capacity: int) -> Buffer:
        if self.place == "mmap" and capacity:
            return FileBuffer(self.num_heads, capacity, self.head_dim, self.dtype)
        return buffer_in_memory(self.num_heads, capacity, self.head_dim, self.dtype, self.device)


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
