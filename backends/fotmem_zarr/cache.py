"""Chunks that were read lately, within a budget."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from fotmem_zarr.rows import Rows

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
        self._chunks: OrderedDict[tuple[Rows, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def read(self, rows: Rows, chunks: Sequence[int]) -> Tensor:
        """Read different chunks of one array, ``[n, chunk_rows, *rest]``."""
        found: dict[int, bytes] = {}
        with self._lock:
            for chunk in chunks:
                held = self._chunks.get((rows, chunk))
                if held is not None:
                    self._chunks.move_to_end((rows, chunk))
                    found[chunk] = held
        missing = sorted(chunk for chunk in chunks if chunk not in found)
        fetched = dict(zip(missing, rows.read(missing), strict=True))
        with self._lock:
            self.chunks_read += len(missing)
            for chunk, data in fetched.items():
                self._hold(rows, chunk, data)
        found |= fetched
        return rows.tensor([found[chunk] for chunk in chunks])

    def count_probed(self, chunks: int) -> None:
        """Take note of what queries want."""
        with self._lock:
            self.chunks_probed += chunks

    def _hold(self, rows: Rows, chunk: int, data: bytes) -> None:
        if (rows, chunk) not in self._chunks:
            self._chunks[rows, chunk] = data
            self._size += len(data) + ENTRY
        while self._size > self.limit and self._chunks:
            _, oldest = self._chunks.popitem(last=False)
            self._size -= len(oldest) + ENTRY
