"""Keeps the chunks that were read last, within a budget."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from fotmem.disk.chunk_reader import Chunk, read_chunks

ENTRY = 512
"""Bytes that a chunk in the cache takes in addition to its rows."""


class ChunkCache:
    """A least-recently-used cache of chunks. Several threads may read from it at a time."""

    def __init__(self) -> None:
        self.limit = 0
        """Most bytes that it keeps."""
        self.chunks_read = 0
        """Chunks that it had to read from storage."""
        self.chunks_asked = 0
        """Chunks that it was asked for."""
        self.chunks_probed = 0
        """Chunks that queries asked for."""
        self._chunks: OrderedDict[Chunk, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def read(self, chunks: Sequence[Chunk]) -> Tensor:
        """Read distinct chunks, all of one shape: ``[n, chunk_rows, *rest]``."""
        found: dict[Chunk, bytes] = {}
        with self._lock:
            for chunk in chunks:
                held = self._chunks.get(chunk)
                if held is not None:
                    self._chunks.move_to_end(chunk)
                    found[chunk] = held
        missing = [chunk for chunk in chunks if chunk not in found]
        missing.sort(key=lambda chunk: (chunk[0].path, chunk[1]))  # so that neighbours meet
        fetched = read_chunks(missing)
        with self._lock:
            self.chunks_asked += len(chunks)
            self.chunks_read += len(missing)
            for chunk, data in fetched.items():
                self._hold(chunk, data)
        found |= fetched
        return chunks[0][0].tensor([found[chunk] for chunk in chunks])

    @property
    def bytes_held(self) -> int:
        """Bytes that it takes now."""
        return self._size

    def count_probed(self, chunks: int) -> None:
        """Count chunks that queries ask for."""
        with self._lock:
            self.chunks_probed += chunks

    def _hold(self, chunk: Chunk, data: bytes) -> None:
        if chunk not in self._chunks:
            self._chunks[chunk] = data
            self._size += len(data) + ENTRY
        while self._size > self.limit and self._chunks:
            _, oldest = self._chunks.popitem(last=False)
            self._size -= len(oldest) + ENTRY
