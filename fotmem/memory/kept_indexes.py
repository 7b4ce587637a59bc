"""Fills stores from a memory's directory, with the indexes that are kept there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.progress import progress_told
from fotmem.stores.saved_index import SavedIndex
from fotmem.stores.store import MemoryStore

LOG = logging.getLogger(__name__)
MANY = 8192
"""Tokens from which on opening takes long enough for a progress bar."""
FRESH = 0.875
"""An index is written again when it knows less than this share of the tokens."""


def fill_stores(
    stores: Mapping[int, MemoryStore], directory: MemoryDirectory, start: int, *, progress: bool
) -> None:
    """Add to stores what their directory holds from an id on; empty ones get their index, too."""
    stop = len(directory)
    total = (stop - start) * len(stores)
    shown = progress and stop - start >= MANY
    with progress_told("opening", total, "tokens", shown=shown) as tell:
        for number, (layer, store) in enumerate(stores.items()):
            done = number * (stop - start)

            def told(count: int, done: int = done) -> None:
                tell(done + count)

            if start:
                for keys, values in directory.saved_rows(layer).since(start):
                    store.add(keys, values)
                    told(store.next_id - start)
            elif stop:
                _fill_store(store, layer, directory, told)
            tell(done + stop - start)


def _fill_store(
    store: MemoryStore, layer: int, directory: MemoryDirectory, told: Callable[[int], None]
) -> None:
    """Fill an empty store; load its index, or build it and keep it."""
    rows, index = directory.saved_rows(layer), None
    if store.made_by and store.store_name:
        unread = store.self_checked
        found = directory.indexes.read(store.store_name, layer, store.made_by, unread)
        if found is not None:
            count, arrays = found
            index = SavedIndex(store.made_by, count, *arrays)
    loaded = store.fill(rows, index, progress=told)
    if store.made_by:
        how, name = "loaded" if loaded else "built", store.store_name
        LOG.info("the index of %s, layer %d, was %s: %s", name, layer, how, directory.name)
    if index is not None and not loaded:
        directory.indexes.refuse(store.store_name, layer)
    if not (loaded and index is not None and index.rows >= FRESH * len(directory)):
        keep_index(store, layer, directory)


def keep_indexes(stores: Mapping[int, MemoryStore], directory: MemoryDirectory) -> None:
    """Keep the indexes of all stores in a directory that holds their keys."""
    for layer, store in stores.items():
        keep_index(store, layer, directory)


def keep_index(store: MemoryStore, layer: int, directory: MemoryDirectory) -> None:
    """Keep the index of a store, if it can be saved and knows the tokens by their ids."""
    kept = directory.indexes
    if not (store.made_by and store.store_name and directory.keeps_indexes):
        return
    if store.first_id or store.next_id != len(directory):
        return
    known = kept.rows(store.store_name, layer)
    if known is not None and known >= FRESH * len(directory):
        return
    index = store.save_index()
    if index is not None and index.rows > (known or 0):
        kept.write(store.store_name, layer, index.made_by, index.rows, index.arrays)
