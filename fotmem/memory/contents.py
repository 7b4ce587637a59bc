"""The contents of a memory: a store per memory layer, and the tokens they came from."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Self

import torch
from torch import Tensor

from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.errors import StorageError
from fotmem.interrupts import interrupts_deferred
from fotmem.memory.kept_indexes import fill_stores
from fotmem.memory.text import RememberedText
from fotmem.memory.text_to_read import TokenRows
from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.store import MemoryStore

Makers = Mapping[int, Callable[[], MemoryStore]]
"""By memory layer: makes an empty store for it."""

BULK = 2**23
"""Elements of the keys that are copied from store to store at once (32 MiB of float32)."""


class Contents:
    """Stores and tokens that belong together.

    Contents that replace others are made first and then put in place at once: a change happens
    wholly or not at all, and a call that is under way goes on with the contents it began with.
    Stores are closed when nothing uses their contents any more.

    Parameters
    ----------
    makers : mapping of int to callable
        Make the stores of the memory layers.
    """

    def __init__(self, makers: Makers) -> None:
        self.makers = makers
        self.stores: dict[int, MemoryStore] = {}
        self.text = RememberedText()
        self.directory: MemoryDirectory | None = None
        """Where they are kept; None: they end with the process."""
        self.compactions = 0
        """How often documents had been dropped there."""
        self.appends_only = False
        """Whether stores hold only what is not committed yet, so that no question is answered."""
        self._changes = 0  # begun and ended: odd while one is under way
        self._beyond = 0  # ids of stores beyond the tokens, when it began
        weakref.finalize(self, _close, self.stores).atexit = False

    @classmethod
    def empty(cls, makers: Makers) -> Self:
        """Make empty stores for all memory layers."""
        new = cls(makers)
        for layer, make in makers.items():
            new.put(layer, make())
        return new

    def put(self, layer: int, store: MemoryStore) -> None:
        """Take a store for a layer; whoever searches it finds nothing of removed documents."""
        store.show_only(partial(getattr, self.text, "visible"))
        self.stores[layer] = store

    def __len__(self) -> int:
        """Count the tokens."""
        return len(self.text)

    @property
    def tokens(self) -> Tensor:
        """All token ids, int64 ``[N]`` on CPU, in the order of reading."""
        return self.text.ids

    def copy(self) -> Self:
        """Return equal contents that grow independently."""
        new = self._begun(self.makers)
        for layer, store in self.stores.items():
            new.put(layer, store.copy())
        return new

    def moved(self, makers: Makers) -> Self:
        """Return the same keys, values and tokens, under the same ids, in other stores."""
        new = self._begun(makers)
        new.directory, new.appends_only = self.directory, self.appends_only
        new.compactions = self.compactions
        if self.directory is not None and self._are_saved(self.directory):
            with suppress(StorageError):  # another process may have compacted it, or its disk fails
                for layer, make in makers.items():
                    new.put(layer, make())
                fill_stores(new.stores, self.directory, 0, progress=False)
                return new
        for layer, make in makers.items():
            new.put(layer, make())
            _pour(self.stores[layer], new.stores[layer], self.stores[layer].next_id)
        return new

    def _are_saved(self, directory: MemoryDirectory) -> bool:
        """Whether a directory holds what the stores do, under the same ids."""
        if self.appends_only or self.compactions != directory.compactions:
            return False
        span = (0, len(directory))
        return all((each.first_id, each.next_id) == span for each in self.stores.values())

    def begun_anew(self, compactions: int) -> Self:
        """Return empty contents of the same directory, after as many compactions."""
        new = self.empty(self.makers)
        new.directory, new.appends_only = self.directory, self.appends_only
        new.compactions = compactions
        return new

    def append(self, rows: TokenRows, pieces: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Append tokens to the last document and to all stores, or to none.

        The pieces are keys and values ``[H, at least n, D]`` of each layer; only the last ``n`` are
        appended: an overlap is not remembered again.
        """
        touched, count = [], len(rows.ids)
        with interrupts_deferred(), self.changing():
            try:
                for layer, (keys, values) in pieces.items():
                    touched.append(layer)
                    pair = self._as_kept(layer, keys[:, -count:], values[:, -count:])
                    self.stores[layer].add(*pair)
                self.text.append(rows)
            except BaseException:
                # The store that failed, too: it may hold a part of the window.
                for layer in touched:
                    self.put(layer, self._shortened(layer))
                raise

    def _as_kept(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values as whoever opens the directory will find them."""
        if self.directory is None:
            return keys, values
        return self.directory.as_kept(layer, keys, values)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let calls that begin in the block see what there was before it."""
        self._beyond = self._end() - len(self.text)
        self._changes += 1
        try:
            yield
        finally:
            self._changes += 1

    def shown(self) -> tuple[int, IdRanges | None]:
        """Return the id after the last one that a call may find now, and which are visible.

        Stores may hold more than the tokens: whoever has them can add to them.
        """
        while True:
            before, end = self._changes, self._end()
            tokens, visible = self.text.shown
            if self._changes == before:
                under_way = before % 2 == 1
                return tokens + self._beyond if under_way else max(tokens, end), visible

    def _end(self) -> int:
        return min(store.next_id for store in self.stores.values())

    def require_whole(self) -> None:
        """Raise `StorageError` if the stores do not hold everything."""
        if self.appends_only:
            raise StorageError(
                "this memory was opened to be read into (append_only=True) and cannot be asked; "
                "open it again without"
            )

    def recall(self, other: Contents, span: range) -> None:
        """Append tokens of other contents, with their documents, keys and values."""
        with self.changing():
            for layer, store in other.stores.items():
                for ids in _blocks(span, store):
                    self.stores[layer].add(*looked_up(store, ids))
            self.text.take(other.text, span.start, span.stop)

    def shorten(self) -> None:
        """Drop from the stores what was added beyond the tokens."""
        for layer, store in self.stores.items():
            if store.next_id > len(self):
                self.put(layer, self._shortened(layer))

    def _begun(self, makers: Makers) -> Self:
        new = type(self)(makers)
        new.text = self.text.copy()
        return new

    def _shortened(self, layer: int) -> MemoryStore:
        """Rebuild a store without what was added beyond the tokens."""
        new = self.makers[layer]()
        _pour(self.stores[layer], new, len(self))
        return new


def _close(stores: Mapping[int, MemoryStore]) -> None:
    with ExitStack() as closing:
        for store in stores.values():
            closing.callback(store.close)


def _pour(old: MemoryStore, new: MemoryStore, stop: int) -> None:
    """Add the keys and values of one store before id `stop` to another, under the same ids."""
    new.start_at(old.first_id)
    new.fill(looked_up(old, ids) for ids in _blocks(range(old.first_id, stop), old))


def _blocks(span: range, store: MemoryStore) -> Iterator[Tensor]:
    """Cut ids into blocks that are copied from store to store at once.

    They are large, so that an index is built once and not rebuilt as keys arrive.
    """
    length = max(1, BULK // (store.num_heads * store.head_dim))
    for start in range(span.start, span.stop, length):
        yield torch.arange(start, min(start + length, span.stop))


def looked_up_range(store: MemoryStore, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Look up keys and values ``[H, n, D]`` of the ids from `start` to before `stop`."""
    return looked_up(store, torch.arange(start, stop))


def looked_up(store: MemoryStore, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Look up keys and values ``[H, n, D]`` of all heads, by ids ``[n]``."""
    ids = ids.expand(store.num_heads, 1, -1)
    return store.keys(ids)[:, 0], store.values(ids)[:, 0]
