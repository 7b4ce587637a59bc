"""Rows that grow: the keys or the values of a store, in memory or on disk."""

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

SMALLEST = 2**10
"""Rows of the first block, at least."""


class _Block(NamedTuple):
    """Consecutive rows; replaced as a whole, so that searching threads see one state."""

    first: int  # id of row 0
    rows: Tensor  # [H, n, D], the filled part of `whole`
    whole: Tensor

    @property
    def step(self) -> int:
        """Rows from one head's first to the next head's."""
        return self.rows.stride(0) // self.rows.shape[2]

    def together(self) -> Tensor:
        """View all heads' rows one head after the other ``[n, D]``, with room between."""
        heads, length, dim = self.rows.shape
        return self.rows.as_strided(((heads - 1) * self.step + length, dim), (dim, 1))


class Rows:
    """Vectors ``[H, N, D]`` that are added at the end and forgotten from the start.

    They lie in blocks, each as large as all before it together: nothing is ever moved, so that no
    single `add` takes long, and there are few blocks, so that looking up is fast. Reading is safe
    while another thread adds.

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
        self._blocks: tuple[_Block, ...] = ()
        self._end = 0

    def __len__(self) -> int:
        """Return the id that the next row gets: rows ever added."""
        return self._end

    @property
    def first(self) -> int:
        """Id of the oldest row that is still held."""
        return self._blocks[0].first if self._blocks else self._end

    def reserve(self, count: int) -> None:
        """Make room for so many rows, so that adding them cannot fail."""
        missing = count - sum(block.whole.shape[1] - block.rows.shape[1] for block in self._blocks)
        if missing > 0:
            first = self._end + count - missing
            length = max(missing, first - self.first, SMALLEST)
            shape = (self.num_heads, length, self.head_dim)
            if self.place == "mmap":
                whole = _on_disk(shape, self.dtype)
            else:
                whole = torch.empty(shape, dtype=self.dtype, device=self.device)
            self._blocks = (*self._blocks, _Block(first, whole[:, :0], whole))

    def add(self, rows: Tensor) -> None:
        """Append ``[H, n, D]``; copied."""
        self.reserve(rows.shape[1])
        blocks, done = [], 0
        for block in self._blocks:
            begin, room = block.rows.shape[1], block.whole.shape[1] - block.rows.shape[1]
            part = rows[:, done : done + room]
            end = begin + part.shape[1]
            block.whole[:, begin:end] = part
            blocks.append(_Block(block.first, block.whole[:, :end], block.whole))
            done += part.shape[1]
        self._blocks = tuple(blocks)
        self._end += done

    def truncate(self, end: int) -> None:
        """Take back the rows from `end` on."""
        kept = []
        for block in self._blocks:
            rows = block.rows[:, : max(0, end - block.first)]
            if rows.shape[1]:  # without room: a copy may still hold what was taken back
                kept.append(_Block(block.first, rows, rows))
        self._blocks = tuple(kept)
        self._end = end

    def take(self, ids: Tensor) -> Tensor:
        """Look up rows of ids ``[H, Q, K]``, all of them held: ``[H, Q, K, D]`` on their device."""
        return self._take(ids.to(self.device)).to(ids.device)

    def _take(self, ids: Tensor) -> Tensor:
        blocks = [block for block in self._blocks if block.rows.shape[1]]
        flat = ids.reshape(self.num_heads, -1).contiguous()
        shape = (*ids.shape, self.head_dim)
        if ids.numel() == 0:
            return torch.empty(shape, dtype=self.dtype, device=ids.device)
        if len(blocks) == 1:
            places = _places(flat, blocks[0].first, blocks[0].step).view(-1)
            return blocks[0].together().index_select(0, places).view(shape)
        firsts, steps = torch.tensor(
            [(block.first, block.step) for block in blocks], device=ids.device
        ).unbind(1)
        which = torch.bucketize(flat, firsts[1:].contiguous(), right=True)
        places = _places(flat, firsts[which], steps[which]).view(-1)
        which, order = which.view(-1).byte().sort()
        counts = which.bincount(minlength=len(blocks)).tolist()
        found = torch.empty(len(order), self.head_dim, dtype=self.dtype, device=ids.device)
        for block, here, there in zip(
            blocks, places[order].split(counts), order.split(counts), strict=True
        ):
            found.index_copy_(0, there, block.together().index_select(0, here))
        return found.view(shape)

    def blocks(self, start: int, stop: int, length: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the rows from `start` to before `stop`, at most `length` at a time.

        Yields
        ------
        tuple of int and Tensor
            Id of the first row, and a view ``[H, n, D]``.
        """
        for block in self._blocks:
            end = min(stop, block.first + block.rows.shape[1])
            for first in range(max(start, block.first), end, length):
                last = min(first + length, end)
                yield first, block.rows[:, first - block.first : last - block.first]

    def forget(self, first: int) -> None:
        """Free the blocks whose rows all come before row `first`."""
        self._blocks = tuple(
            block for block in self._blocks if block.first + block.rows.shape[1] > first
        )

    def copy(self) -> Self:
        """Return independent rows that share what is there."""
        twin = type(self)(
            self.num_heads,
            self.head_dim,
            dtype=self.dtype,
            device=self.device,
            place=self.place,
        )
        # Without room: what the twin adds goes to blocks of its own.
        twin._blocks = tuple(_Block(block.first, block.rows, block.rows) for block in self._blocks)
        twin._end = self._end
        return twin


def _places(ids: Tensor, first: Tensor | int, step: Tensor | int) -> Tensor:
    """Tell where the rows of ids ``[H, n]`` are in `_Block.together`."""
    return ids - first + torch.arange(len(ids), device=ids.device)[:, None] * step


def _on_disk(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Map a temporary file without a name; its space is reserved, so that writing cannot fail."""
    size = torch.Size(shape).numel()
    descriptor, name = tempfile.mkstemp(prefix="fotmem-")
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, max(1, size * dtype.itemsize))
        return torch.from_file(name, shared=True, size=size, dtype=dtype).view(shape)
    except OSError as error:
        raise StorageError(
            f"no room for {size * dtype.itemsize:,} bytes in {tempfile.gettempdir()} "
            f"({error.strerror}): let TMPDIR name a folder with more, or keep rows in 'ram'"
        ) from error
    finally:
        os.close(descriptor)
        Path(name).unlink()
