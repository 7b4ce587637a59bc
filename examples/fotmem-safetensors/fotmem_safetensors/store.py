"""Exact search in memory; a directory keeps keys and values in safetensors files."""

from pathlib import Path
from typing import Any, NamedTuple, Self

from safetensors.torch import load, save
from torch import Tensor

from fotmem.stores import Hits, RowsStore, StoreDirectory, exact_search

BLOCK = 1024
"""Rows of a file. The last file has fewer, and the next flush writes it again."""


class Block(NamedTuple):
    """A file, and the ids of its rows: from `start` to before `stop`."""

    file: str
    start: int
    stop: int


class SafetensorsStore(RowsStore):
    """Keys and values in memory, and as of the last flush in `directory`, if there is one."""

    def __init__(self, *, directory: Path | str | None, **layer: Any) -> None:
        super().__init__(**layer)
        self._blocks: list[Block] = []
        self._directory: StoreDirectory | None = None
        if directory is not None:
            self._directory = StoreDirectory(
                directory, self, format="fotmem-safetensors 1", suffix=".safetensors"
            )
            self._load(self._directory)

    def _load(self, directory: StoreDirectory) -> None:
        self._blocks = [Block(*block) for block in directory.facts.get("blocks", ())]
        for block in self._blocks:
            tensors = load(directory.read(block.file))
            self.add_rows(tensors["keys"], tensors["values"])
        first_id = directory.facts.get("first_id", 0)
        start = self._blocks[0].start if self._blocks else first_id
        self.resume_at(start, added=len(self.stored_keys), forgotten=first_id - start)
        self._flushed = self.first_id, self.next_id

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        first, keys = self.stored_keys.since(self.forgotten_rows)
        return exact_search(queries, keys, top_k, first_id=first)

    def copy_rows(self) -> Self:
        twin = super().copy_rows()
        twin._directory = None  # two stores never write to one directory
        return twin

    def flush(self) -> None:
        super().flush()
        if self._directory is None or self._flushed == (self.first_id, self.next_id):
            return
        whole = (block for block in self._blocks if block.stop - block.start == BLOCK)
        blocks = [block for block in whole if block.stop > self.first_id]
        for start in range(blocks[-1].stop if blocks else self.first_id, self.next_id, BLOCK):
            stop = min(start + BLOCK, self.next_id)
            blocks.append(Block(self._directory.write(self._rows(start, stop)), start, stop))
        self._directory.commit(
            [block.file for block in blocks], blocks=blocks, first_id=self.first_id
        )
        self._blocks, self._flushed = blocks, (self.first_id, self.next_id)

    def _rows(self, start: int, stop: int) -> bytes:
        """Return the rows with these ids as the content of a file."""
        offset = self.first_id - self.forgotten_rows  # id of row 0
        tensors = {}
        for name, rows in (("keys", self.stored_keys), ("values", self.stored_values)):
            _, found = rows.since(start - offset)
            tensors[name] = found[:, : stop - start].contiguous()
        return save(tensors)

    def close(self) -> None:
        super().close()
        if self._directory is not None:
            self._directory.close()
