"""The rows of a log and those after it, for whoever takes a copy of them or looks them up there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fotmem.disk.array_group import LayerShape
from fotmem.disk.decoded_rows import DecodedRows
from fotmem.disk.log import Log
from fotmem.disk.mapped_rows import MappedRows
from fotmem.disk.quantization import LayerCodec

Pair = tuple[Tensor, Tensor]
"""Keys and values ``[H, n, D]``."""
BULK = 2**23
"""Elements of keys that are yielded at once: an index is built once, not as keys arrive."""


@dataclass(frozen=True, kw_only=True)
class SavedRows:
    """The keys and values of a layer, as a memory's directory holds them.

    A store that takes a copy iterates over them. One that looks up rows can leave the whole blocks
    where they are: `mapped`.

    Attributes
    ----------
    log : Log
        Whole blocks, of the columns that the codec has.
    recent : sequence of tuple of Tensor
        The rows of these columns after them, in memory.
    codec : LayerCodec
        Tells how keys and values are kept.
    """

    log: Log
    recent: Sequence[tuple[Tensor, ...]]
    codec: LayerCodec

    @property
    def shape(self) -> LayerShape:
        """Heads, head dimension and dtype."""
        return self.codec.shape

    @property
    def is_quantized(self) -> bool:
        """Whether the columns of the log are not the keys and values themselves."""
        return self.codec.quantization is not None

    def __iter__(self) -> Iterator[Pair]:
        """Yield all keys and values ``[H, n, D]``, in large blocks."""
        return self.since(0)

    def since(self, row: int) -> Iterator[Pair]:
        """Yield those from a row on, in large blocks."""
        held, size = list[Pair](), 0
        for first, (keys, values) in self._pairs(row):
            skip = max(0, row - first)
            held.append((keys[:, skip:], values[:, skip:]))
            size += keys.numel()
            if size >= BULK:
                yield _joined(held)
                held, size = [], 0
        if held:
            yield _joined(held)

    def mapped(self, column: str) -> MappedRows | DecodedRows:
        """Return the whole blocks of the keys or the values, where they are; there must be one."""
        if self.is_quantized:
            return DecodedRows(self.log, self.codec, column)
        return MappedRows(self.log, column)

    def _pairs(self, start: int) -> Iterator[tuple[int, Pair]]:
        """Yield the blocks that have rows from `start` on: the first row, and all of them."""
        names = [column.name for column in self.codec.columns()]
        for first, rows in self.log.read(names, start, self.log.end):
            yield first, self.codec.decode(rows)
        first = self.log.end
        for rows in self.recent:
            end = first + rows[0].shape[1]
            if end > start:
                yield first, self.codec.decode(rows)
            first = end


def _joined(held: Sequence[Pair]) -> Pair:
    keys, values = zip(*held, strict=True)
    return torch.cat(keys, 1), torch.cat(values, 1)
