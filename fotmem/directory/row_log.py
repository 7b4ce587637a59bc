"""The rows of one folder of a memory: on disk, and in RAM until they are written."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fotmem.directory.manifest import LogEntry, MemoryManifest
from fotmem.disk import (
    ArrayGroup,
    Column,
    GroupFiles,
    LayerCodec,
    Log,
    LogPart,
    SavedRows,
    Storage,
    TailPiece,
    grown_tail,
    load_log,
    load_pieces,
    load_tail,
)


class RowLog:
    """Rows of some columns, in the order of reading.

    Whole blocks are on disk. The rows after them are in RAM, and as pieces on disk if they were
    flushed.

    Parameters
    ----------
    files : GroupFiles
        Names the groups.
    folder : str
        Where they lie.
    columns : sequence of Column
    block : int
        Rows of a block.
    """

    def __init__(
        self,
        files: GroupFiles[MemoryManifest],
        folder: str,
        columns: Sequence[Column],
        block: int,
    ) -> None:
        self.folder = folder
        self.columns = columns
        self._files = files
        self._log = Log(block)
        self._pieces: list[TailPiece] = []
        self._recent: list[tuple[Tensor, ...]] = []  # the rows from `logged` on
        self._rows = 0

    def load(self, storage: Storage, entry: LogEntry, rows: int) -> None:
        """Take over what a manifest names: `rows` rows in all."""
        block = self._log.block
        logged = rows // block * block
        self._log = load_log(
            storage, self.folder, entry.parts, block=block, logged=logged, columns=self.columns
        )
        self._pieces = load_pieces(storage, self.folder, entry.pieces, self.columns)
        self._recent = load_tail(self._pieces)
        self._rows = rows

    def __len__(self) -> int:
        """Count the rows."""
        return self._rows

    @property
    def logged(self) -> int:
        """Rows in whole blocks on disk."""
        return self._log.end

    def append(self, tensors: Sequence[Tensor]) -> None:
        """Add rows, ``[heads, n, *rest]`` of each column; copied if they are not ours alone."""
        rows = tuple(
            tensor.detach().to("cpu", column.dtype, copy=True)
            for tensor, column in zip(tensors, self.columns, strict=True)
        )
        self._recent.append(rows)
        self._rows += rows[0].shape[1]

    def truncate(self, rows: int) -> None:
        """Remove the rows from `rows` on, which must not be in a whole block on disk."""
        whole = self._joined()
        self._recent = [tuple(each[:, : rows - self.logged] for each in whole)] if whole else []
        self._rows = rows

    def flush(self) -> None:
        """Write what is not on disk yet; it counts when the manifest names it."""
        self.write_blocks()
        if recent := self._joined():
            self._pieces = grown_tail(self._pieces, self.logged, recent, self._new_piece)

    def write_blocks(self) -> None:
        """Write the rows in RAM that fill whole blocks."""
        recent, block = self._joined(), self._log.block
        while recent and recent[0].shape[1] >= block:
            rows = [each[:, :block] for each in recent]
            self._log.write(self.logged, rows, storage=self._files.storage, new_part=self._new_part)
            recent = tuple(each[:, block:] for each in recent)
            self._recent = [recent]
        if recent:
            self._recent = [tuple(each.clone() for each in recent)]  # no view of what is on disk

    def beginning(self, row: int) -> "RowLog":
        """Return a log of the parts that end at a row or before it; it shares them."""
        twin = RowLog(self._files, self.folder, self.columns, self._log.block)
        twin._log = self._log.beginning(row)
        twin._rows = twin._log.end
        return twin

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Yield rows from `start` to before `stop`: the first, and ``[heads, n, *rest]`` each."""
        names, block = [column.name for column in self.columns], self._log.block
        for first, rows in self._log.read(names, start, min(stop, self.logged)):
            low, high = max(start, first) - first, min(stop, first + block) - first
            yield first + low, tuple(each[:, low:high] for each in rows)
        first = self.logged
        for rows in self._recent:
            end = first + rows[0].shape[1]
            low, high = max(start, first), min(stop, end)
            if low < high:
                yield low, tuple(each[:, low - first : high - first] for each in rows)
            first = end

    def saved(self, codec: LayerCodec) -> SavedRows:
        """Return all rows as of now, of a layer whose columns are those of a codec."""
        return SavedRows(log=self._log.copy(), recent=list(self._recent), codec=codec)

    def entry(self) -> LogEntry:
        """Describe it for the manifest."""
        return LogEntry(
            parts=tuple(part.entry() for part in self._log.parts),
            pieces=tuple(piece.entry() for piece in self._pieces),
        )

    def groups(self) -> list[ArrayGroup]:
        """List what the manifest must name."""
        return [*self._log.parts, *self._pieces]

    def _joined(self) -> tuple[Tensor, ...]:
        """Join the rows in RAM; an empty tuple if there are none."""
        if len(self._recent) > 1:
            self._recent = [tuple(torch.cat(each, 1) for each in zip(*self._recent, strict=True))]
        return self._recent[0] if self._recent else ()

    def _new_part(self, first: int) -> LogPart:
        location, block = self._files.new(self.folder), self._log.block
        return LogPart(location, first=first, block=block, columns=self.columns)

    def _new_piece(self, first: int, rows: int) -> TailPiece:
        return TailPiece(self._files.new(self.folder), first=first, rows=rows, columns=self.columns)
