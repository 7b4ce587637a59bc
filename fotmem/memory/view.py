"""A memory as one call of the model looks at it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.memory.contents import Contents
from fotmem.memory.decay import scale_and_bias
from fotmem.memory.options import MemoryOptions
from fotmem.memory.stats import SearchCounter
from fotmem.stores.hits import Hits
from fotmem.stores.id_ranges import END_OF_IDS, IdRanges
from fotmem.stores.store import MemoryStore

ALL = IdRanges([(0, END_OF_IDS)])
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class MemoryView:
    """What a memory holds, and how it is looked at, from the beginning of a call to its end."""

    contents: Contents
    options: MemoryOptions
    length: int
    """The id after the last one that there was; what has come since is not found."""
    among: IdRanges | None = None
    """The ids that may be found; None: all."""
    counter: SearchCounter = field(default_factory=SearchCounter)

    def store(self, layer: int) -> MemoryStore:
        """Return the store of a memory layer."""
        return self.contents.stores[layer]

    def search(self, layer: int, queries: Tensor, top_k: int, scale: float) -> Hits:
        """Find the best keys for queries ``[H, Q, D]``; scores are logits of the softmax."""
        store = self.store(layer)

        def search(among: IdRanges | None) -> Hits:
            scaled, bias = scale_and_bias(store, layer, scale, self.options, among)
            ids, scores = store.search(queries, top_k, bias=bias, among=among)
            return Hits(ids, scores * scaled)

        with self.counting(store, queries, top_k):
            return self._among(store, search)

    def attend(
        self, layer: int, queries: Tensor, top_k: int | None, scale: float
    ) -> PartialAttention:
        """Attend with queries ``[H, Q, D]``."""
        store = self.store(layer)

        def attend(among: IdRanges | None) -> PartialAttention:
            scaled, bias = scale_and_bias(store, layer, scale, self.options, among)
            return store.attend(queries, top_k=top_k, scale=scaled, bias=bias, among=among)

        with self.counting(store, queries, top_k):
            return self._among(store, attend)

    def _among(self, store: MemoryStore, ask: Callable[[IdRanges | None], T]) -> T:
        """Ask a store for what was there when the call began; it may have changed since."""
        among = self.among
        if among is None and self.contents.text.visible is not None:
            among = ALL
        if store.next_id <= self.length:
            answer = ask(among)
            if store.next_id <= self.length:  # nor has it grown meanwhile
                return answer
        among = ALL if among is None else among
        return ask(among.intersection(IdRanges([(0, self.length)])))

    def counting(
        self, store: MemoryStore, queries: Tensor, top_k: int | None
    ) -> AbstractContextManager[None]:
        """Count the block as a search of a store with queries ``[H, Q, D]``."""
        most = len(store) if top_k is None else min(top_k, len(store))
        return self.counter.counting(queries.shape[0] * queries.shape[1] * most)


class SeenMemory(NamedTuple):
    """A memory that a call has looked at; it does not keep the contents."""

    contents: weakref.ref[Contents]
    length: int
    visible: IdRanges | None
    options: MemoryOptions
    among: IdRanges | None

    @classmethod
    def of(cls, view: MemoryView) -> SeenMemory:
        """Remember what a call looks at."""
        contents = view.contents
        text = contents.text
        return cls(weakref.ref(contents), view.length, text.visible, view.options, view.among)

    def view(self) -> MemoryView | None:
        """Return the memory as it was seen; None if it has changed since, or is gone."""
        contents = self.contents()
        if contents is None or contents.shown()[0] != self.length:
            return None
        if contents.text.visible is not self.visible:
            return None
        return MemoryView(contents, self.options, self.length, self.among)
