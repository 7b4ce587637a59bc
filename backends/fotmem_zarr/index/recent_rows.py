"""The rows that were added last: in memory, until a segment holds them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """Rows from `first` on, a multiple of the block length; only the last block is shorter."""

    first: int
    keys: Tensor  # [H, n, D], the filled part of `room`
    values: Tensor
    room: tuple[Tensor, Tensor]

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.keys.shape[1]


class RecentRows(NamedTuple):
    """Blocks in order. They are replaced, never changed, so that a search sees one state."""

    blocks: tuple[Block, ...] = ()
    shared: bool = False
    """Whether another store uses the room after the last row."""

    def append(self, keys: Tensor, values: Tensor, *, first: int, length: int) -> "RecentRows":
        """Add rows ``[H, n, D]`` that fit into the last block, or begin a block of `length`."""
        blocks = self.blocks
        last = blocks[-1] if blocks and blocks[-1].end % length else None
        start = last.first if last else first
        filled = last.keys.shape[1] if last else 0
        total = filled + keys.shape[1]
        room = last.room if last else None
        if room is None or last is None or self.shared or room[0].shape[1] < total:
            size = length if total > length // 2 else 2 * total
            room = (
                _larger(keys, last and last.keys, size),
                _larger(values, last and last.values, size),
            )
        room[0][:, filled:total] = keys
        room[1][:, filled:total] = values
        block = Block(start, room[0][:, :total], room[1][:, :total], room)
        return RecentRows((*(blocks[:-1] if last else blocks), block))

    def keys(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row and the keys of each block."""
        return ((block.first, block.keys) for block in self.blocks)

    def drop(self, row: int) -> "RecentRows":
        """Leave out the blocks that end before or at a row."""
        return self._replace(blocks=tuple(block for block in self.blocks if block.end > row))


def _larger(like: Tensor, filled: Tensor | None, size: int) -> Tensor:
    room = torch.empty(like.shape[0], size, like.shape[2], dtype=like.dtype)
    if filled is not None:
        room[:, : filled.shape[1]] = filled
    return room
