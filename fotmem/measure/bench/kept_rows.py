"""What a memory's directory holds for a store that opens the memory."""

from __future__ import annotations

from pathlib import Path

from fotmem.directory.memory_directory import BLOCK
from fotmem.disk import LayerCodec, LayerShape, Location, Log, LogPart, SavedRows
from fotmem.disk.folder import Folder
from fotmem.measure.capture import KeyValues
from fotmem.stores.store import MemoryStore

CHECKSUMS = 0.5
"""Bytes for each key and value of a head."""


def leaves_rows(store: MemoryStore, rows: KeyValues, folder: Path) -> bool:
    """Return whether a store looks up rows in a memory's directory, and takes no copy of them.

    Parameters
    ----------
    store : MemoryStore
        Empty; afterwards it may hold the rows.
    rows : KeyValues
        Keys and values ``[H, N, D]``: a store may copy a few.
    folder : Path
        For a directory with these rows; made if it is missing.
    """
    shape = LayerShape(store.num_heads, store.head_dim, store.dtype)
    storage, log = Folder(folder, durable=False), Log(BLOCK)

    def new_part(first: int) -> LogPart:
        location = Location.new(storage, "layer")
        return LogPart(location, first=first, block=BLOCK, columns=shape.columns())

    for first in range(0, rows.keys.shape[1] - BLOCK + 1, BLOCK):
        block = [each[:, first : first + BLOCK].to(store.dtype) for each in rows]
        log.write(first, block, storage=storage, new_part=new_part)
    saved = SavedRows(log=log, recent=[], codec=LayerCodec(shape))
    return log.end > 0 and store.adopt_rows(saved) > 0


def whole_blocks(store: MemoryStore) -> int:
    """Return the bytes of a store's keys and values that would stay in a directory."""
    return len(store) // BLOCK * BLOCK * _row_bytes(store)


def directory_bytes(store: MemoryStore) -> int:
    """Return the bytes that a memory's directory has for a store: of its rows and its index."""
    saved = store.save_index()
    index = 0 if saved is None else sum(array.nbytes for array in saved.arrays.values())
    return index + round(len(store) * (_row_bytes(store) + CHECKSUMS * store.num_heads))


def _row_bytes(store: MemoryStore) -> int:
    return 2 * store.num_heads * store.head_dim * store.dtype.itemsize
