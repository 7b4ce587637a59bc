"""Chunks that were read lately, within a budget."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from fotmem_zarr.rows import Chunk, Rows

ENTRY = 512
"""Bytes that a chunk in the cache takes beside its rows."""


class Cache:
    """The chunks that were used last. Several threads may ask it."""

    def __init__(self) -> None:
        self.limit = 0
        """Bytes."""
        self.chunks_read = 0
        """How many were not in it."""
        self.chunks_probed = 0
        """How many queries wanted to look into."""
        self._chunks: OrderedDict[tuple[int, Chunk], tuple[Rows, Tensor]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def read(self, rows: Rows, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Read different chunks ``[chunk_rows, *rest]`` of one array."""
        found: dict[Chunk, Tensor] = {}
        with self._lock:
            for chunk in chunks:
                held = self._chunks.get((id(rows), chunk))
                if held is not None:
                    self._chunks.move_to_end((id(rows), chunk))
                    found[chunk] = held[1]
        missing = sorted(chunk for chunk in chunks if chunk not in found)
        fetched = dict(zip(missing, rows.read(missing), strict=True))
        with self._lock:
            self.chunks_read += len(missing)
            for chunk, tensor in fetched.items():
                self._hold(rows, chunk, tensor)
        found |= fetched
        return [found[chunk] for chunk in chunks]

    def count_probed(self, chunks: int) -> None:
        """Take note of what queries want."""
        with self._lock:
            self.chunks_probed += chunks

    def _hold(self, rows: Rows, chunk: Chunk, tensor: Tensor) -> None:
        if (id(rows), chunk) not in self._chunks:
            self._chunks[id(rows), chunk] = (
                rows,
                tensor,
            )  # holds `rows`, so that its id stays its own
            self._size += rows.chunk_bytes + ENTRY
        while self._size > self.limit and self._chunks:
            _, (oldest, _) = self._chunks.popitem(last=False)
            self._size -= oldest.chunk_bytes + ENTRY
