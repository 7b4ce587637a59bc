"""Chunks that were read lately, within a budget."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from fotmem_zarr.disk.chunked_array import Chunk, read_chunks, side_by_side

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
        self._chunks: OrderedDict[Chunk, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def read(self, chunks: Sequence[Chunk]) -> Tensor:
        """Read different chunks, all of one shape: ``[n, chunk_rows, *rest]``."""
        found: dict[Chunk, bytes] = {}
        with self._lock:
            for chunk in chunks:
                held = self._chunks.get(chunk)
                if held is not None:
                    self._chunks.move_to_end(chunk)
                    found[chunk] = held
        missing = [chunk for chunk in chunks if chunk not in found]
        missing.sort(key=lambda chunk: (chunk[0].path, chunk[1]))  # neighbours come together
        fetched = read_chunks(missing)
        with self._lock:
            self.chunks_read += len(missing)
            for chunk, data in fetched.items():
                self._hold(chunk, data)
        found |= fetched
        return side_by_side(chunks[0][0], [found[chunk] for chunk in chunks])

    def count_probed(self, chunks: int) -> None:
        """Take note of what queries want."""
        with self._lock:
            self.chunks_probed += chunks

    def _hold(self, chunk: Chunk, data: bytes) -> None:
        if chunk not in self._chunks:
            self._chunks[chunk] = data
            self._size += len(data) + ENTRY
        while self._size > self.limit and self._chunks:
            _, oldest = self._chunks.popitem(last=False)
            self._size -= len(oldest) + ENTRY
