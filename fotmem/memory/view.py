"""A memory as one call of the model looks at it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.memory.contents import Contents
from fotmem.memory.decay import scale_and_bias
from fotmem.memory.options import MemoryOptions
from fotmem.memory.stats import SearchCounter
from fotmem.stores.hits import Bias, Hits
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
    recent: int = 0
    """How many of its last tokens keep their positions."""

    def store(self, layer: int) -> MemoryStore:
        """Return the store of a memory layer."""
        return self.contents.stores[layer]

    def without_age(self) -> MemoryView:
        """Return a view in which no token is nearer or younger than others."""
        return replace(self, options=replace(self.options, recent=0, decay=0.0), recent=0)

    def search(self, layer: int, queries: Tensor, top_k: int, scale: float) -> Hits:
        """Find the best keys for queries ``[H, Q, D]``; scores are logits of the softmax.

        Recent tokens are not among them.
        """
        store = self.store(layer)

        def search(bias: Bias | None, scaled: float, among: IdRanges | None) -> Hits:
            ids, scores = store.search(queries, top_k, bias=bias, among=among)
            return Hits(ids, scores * scaled)

        with self.counting(store, queries, top_k):
            return self._asked(layer, scale, search)

    def attend(
        self, layer: int, queries: Tensor, top_k: int | None, scale: float
    ) -> PartialAttention:
        """Attend with queries ``[H, Q, D]`` to all but the recent tokens."""
        store = self.store(layer)

        def attend(bias: Bias | None, scaled: float, among: IdRanges | None) -> PartialAttention:
            return store.attend(queries, top_k=top_k, scale=scaled, bias=bias, among=among)

        with self.counting(store, queries, top_k):
            return self._asked(layer, scale, attend)

    def recent_ids(self, layer: int) -> Tensor:
        """Return the ids of the recent tokens, int64 ``[n]``: the last ones that may be found."""
        first = self.store(layer).first_id
        ids = (ALL if self.among is None else self.among).within(first, max(first, self.length))
        return ids.at(torch.arange(max(0, len(ids) - self.recent), len(ids)))

    def recent_positions(self, count: int) -> Tensor:
        """Return where the recent tokens stand, int64 ``[count]``: -1 is just before the window.

        Overflow stands between them and the window.
        """
        return torch.arange(-count, 0) - (self.options.recent - self.recent)

    def _asked(
        self, layer: int, scale: float, ask: Callable[[Bias | None, float, IdRanges | None], T]
    ) -> T:
        """Ask a store for what was there when the call began; it may have changed since."""
        store, options, among, end = self.store(layer), self.options, self.among, self.length
        if among is None and self.contents.text.visible is not None:
            among = ALL
        if not self.recent and store.next_id <= end:
            scaled, bias = scale_and_bias(store, layer, scale, options, among)
            answer = ask(bias, scaled, among)
            if store.next_id <= end:  # nor has it grown meanwhile
                return answer
        scaled, bias = scale_and_bias(store, layer, scale, options, among, end)
        recent = self.recent_ids(layer)[:1].tolist() if self.recent else []
        far = (ALL if among is None else among).within(0, recent[0] if recent else end)
        return ask(bias, scaled, far)

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
    recent: int

    @classmethod
    def of(cls, view: MemoryView) -> SeenMemory:
        """Remember what a call looks at."""
        contents = view.contents
        text = contents.text
        how = (view.options, view.among, view.recent)
        return cls(weakref.ref(contents), view.length, text.visible, *how)

    def view(self) -> MemoryView | None:
        """Return the memory as it was seen; None if it has changed since, or is gone."""
        contents = self.contents()
        if contents is None or contents.shown()[0] != self.length:
            return None
        if contents.text.visible is not self.visible:
            return None
        return MemoryView(contents, self.options, self.length, self.among, recent=self.recent)
