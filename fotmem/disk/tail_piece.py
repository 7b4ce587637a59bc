"""Rows after the last whole block of the log, as flushes found them."""

from collections.abc import Callable, Sequence

from torch import Tensor

from fotmem.disk.array_group import ArrayGroup, Column, Location
from fotmem.disk.chunk_reader import load_arrays
from fotmem.disk.chunked_array import ChunkedArray
from fotmem.disk.log_entries import PieceEntry


class TailPiece(ArrayGroup):
    """The columns of `rows` rows from `first` on: a single chunk for each head."""

    def __init__(
        self, location: Location, *, first: int, rows: int, columns: Sequence[Column]
    ) -> None:
        super().__init__(location, first=first)
        self.rows = rows
        self._arrays = tuple(
            self.new_array(column, rows, chunk_rows=rows, heads_per_shard=column.heads)
            for column in columns
        )

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.first + self.rows

    def write(self, tensors: Sequence[Tensor]) -> None:
        """Write ``[heads, rows, *rest]`` of each column."""
        for array, tensor in zip(self._arrays, tensors, strict=True):
            array.write_description()
            array.write(0, 0, tensor)

    def entry(self) -> PieceEntry:
        """Describe it for the manifest."""
        return PieceEntry(
            name=self.name, generation=self.generation, first=self.first, rows=self.rows
        )

    def arrays(self) -> tuple[ChunkedArray, ...]:
        return self._arrays


def load_tail(pieces: Sequence[TailPiece]) -> list[tuple[Tensor, ...]]:
    """Read all rows of pieces at once, ``[heads, rows, *rest]`` of each column."""
    loaded = iter(load_arrays([array for piece in pieces for array in piece.arrays()]))
    return [tuple(next(loaded) for _ in piece.arrays()) for piece in pieces]


def grown_tail(
    pieces: Sequence[TailPiece],
    first: int,
    tensors: Sequence[Tensor],
    new_piece: Callable[[int, int], TailPiece],
) -> list[TailPiece]:
    """Write rows from `first` on that fill no block; return the pieces that hold them.

    Only new rows are written, together with small pieces before them. The bytes written in all
    grow as the rows times the logarithm of the number of flushes.

    Parameters
    ----------
    pieces : sequence of TailPiece
        What was written before; pieces before `first` are dropped.
    first : int
    tensors : sequence of Tensor
        Of each column, ``[heads, n, *rest]``.
    new_piece : callable
        Begins a piece with its first row and its number of rows.
    """
    kept = [piece for piece in pieces if piece.first >= first]
    end = first + tensors[0].shape[1]
    start = kept[-1].end if kept else first
    if start == end:
        return kept
    while kept and kept[-1].rows <= end - start:
        start = kept.pop().first
    piece = new_piece(start, end - start)
    piece.write([tensor[:, start - first :] for tensor in tensors])
    return [*kept, piece]
