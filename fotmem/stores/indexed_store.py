"""Stores that find keys by an index: all that is not the index's own."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores.brute_force import best_hits, exact_search, in_blocks
from fotmem.stores.buffers import Place
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.hub_keys import HubKeys
from fotmem.stores.options import StoreOptions
from fotmem.stores.parallel import ReadWriteLock
from fotmem.stores.rows_store import RowsStore

if TYPE_CHECKING:
    from fotmem.stores.rerank_numpy import FewQueries

EXACT_BELOW = 4096
"""Keys up to which looking at all of them is as fast as an index."""
LARGE_SHARE = 8
"""Who asks for more than one of so many keys is answered sooner, and better, without an index."""
RECENT = 2048
"""With a bias, so many of the newest keys are looked at: it is they that a decay favours."""
BIASED = 2
"""With a bias, an index, which knows nothing of it, names so many times as many candidates."""


class IndexedOptions(StoreOptions):
    """Options that all stores with an index have."""

    keys: Place = "ram"
    """Where full keys are kept: ``ram``, or ``mmap``, a temporary file."""
    values: Place = "ram"
    """Where values are kept: ``ram`` (or the device), or ``mmap``, a temporary file."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads that search and build; default: as many as torch uses."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of all that is drawn at random while the index is built."""


class IndexedStore(RowsStore):
    """Base of a store that finds keys by an index of some library.

    It keeps keys and values itself, and looks at all keys while there are fewer than 4,096. From
    then on the index names candidates, of which it computes the scores anew from the keys as
    stored; every query also looks at the *hubs*, keys that attention queries often want and an
    index seldom finds. A subclass implements `build_index`, `extend_index`, `find_candidates` and
    `copy_index`.

    The index sees float32 keys on the CPU and counts them as inner methods do. It is searched by
    several threads at a time, but never while it changes.

    Parameters
    ----------
    options : IndexedOptions
        Where keys and values are kept, threads and seed.
    **layer
        As for `MemoryStore`.

    Attributes
    ----------
    first_row, indexed_rows : int
        The index holds the rows from the first to before the second; 0 and 0: there is no index.
    """

    def __init__(self, *, options: IndexedOptions, **layer: Any) -> None:
        super().__init__(keys=options.keys, values=options.values, **layer)
        self.options = options
        self.indexed_rows = 0
        self.first_row = 0
        self._hubs: HubKeys | None = None
        self._few: FewQueries | None = None  # who looks at the hubs, on the CPU
        self._lock = ReadWriteLock()

    # What a subclass implements ----------------------------------------------------------------

    @abstractmethod
    def build_index(self) -> None:
        """Start the index anew, with the keys that `key_blocks` yields."""

    @abstractmethod
    def extend_index(self, first: int, keys: Tensor) -> None:
        """Append keys ``[H, n, D]``, of which the first has id `first`."""

    @abstractmethod
    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        """Name candidates for queries ``[H, Q, D]``, contiguous float32 on the CPU: ``[H, Q, K]``.

        ``K`` may be more or less than `top_k`; -1 where there is none. Forgotten keys may be among
        them.
        """

    @abstractmethod
    def copy_index(self, twin: Self) -> None:
        """Give `twin`, a shallow copy of this store, an index of its own."""

    def tune_index(self) -> None:
        """Let the index know that `options` have changed, of which only `search_options` may."""

    def count_compared(self, queries: Tensor) -> float | None:
        """Count the keys that the index compares with each of ``[H, Q, D]``; None: it cannot tell.

        The mean over queries, as `find_candidates` gets them; for `share_read`.
        """
        return None

    # What it does with them --------------------------------------------------------------------

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        first, add = len(self.stored_keys), super().add_rows

        def grow() -> None:
            try:
                add(keys, values)
                self._update_index(first)
            except BaseException:  # half of the heads may know these keys: let no search see it
                self._cut_back(first, self.forgotten_rows)
                raise

        self._lock.writing(grow)

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return self.search_rows_biased(queries, top_k, None)

    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        if LARGE_SHARE * top_k > len(self.stored_keys) - self.forgotten_rows:
            return super().search_rows_biased(queries, top_k, bias)
        return self._search_index(queries, top_k, bias)

    def _search_index(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        """Choose among what the index names, the hubs, and the newest keys."""
        queries, end = queries.float().contiguous(), len(self.stored_keys)
        candidates = top_k if bias is None else BIASED * top_k
        indexed, hubs, few, found = self._lock.reading(
            lambda: (
                self.indexed_rows,
                self._hubs,
                self._few,
                self.find_candidates(queries.cpu(), candidates) if self.indexed_rows else None,
            )
        )
        newest = indexed if bias is None else min(indexed, max(0, end - RECENT))
        start, parts = max(newest, self.forgotten_rows), []
        if found is not None and hubs is not None:
            parts = self._near_and_far(queries, found, hubs, few, top_k, bias)
            if newest < indexed:
                parts = [
                    Hits(ids, scores.masked_fill(ids >= start, -torch.inf)) for ids, scores in parts
                ]
        if not parts or start < len(self.stored_keys):
            first, keys = self.stored_keys.since(start)
            here = keys.to(self.device)
            parts.append(exact_search(queries, here, top_k, first_id=first, bias=bias))
        return best_hits(parts, top_k)

    def _near_and_far(
        self,
        queries: Tensor,
        found: Tensor,
        hubs: HubKeys,
        few: "FewQueries | None",
        top_k: int,
        bias: Bias | None,
    ) -> list[Hits]:
        """Compute the scores of what the index found, and of the hubs, each key once."""
        if few is not None and few.suits(found):
            return [few.best(queries, found, self.stored_keys, top_k, bias, self.first_row)]
        found = found.to(self.device)
        found = found.masked_fill(hubs.contain(found), -1)
        return [self._scored(queries, found, bias), hubs.search(queries, top_k, bias)]

    def tune_options(self, options: dict[str, Any]) -> None:
        changed = self.options.changed(options)

        def tune() -> None:
            self.options = changed
            if self.indexed_rows:
                self.tune_index()

        self._lock.writing(tune)

    def forget_rows(self, count: int) -> None:
        first, forget = self.forgotten_rows + count, super().forget_rows
        if 2 * (first - self.first_row) < self.indexed_rows - self.first_row:
            return  # hidden by the base class, until building anew costs no more than was added

        def begin_anew() -> None:
            before, self.first_row = self.first_row, first
            try:
                self._drop_index()
                self._update_index(first)
                forget(count)
            except BaseException:
                self._cut_back(len(self.stored_keys), before)
                raise

        self._lock.writing(begin_anew)

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        first = super().undo_rows(added, forgotten, forgetting)
        self._lock.writing(lambda: self._cut_back(added, first))
        return first

    def _cut_back(self, end: int, start: int) -> None:
        """Keep the rows before `end` only, and no index: the next `add` builds it anew."""
        self._drop_index()
        self.first_row = start
        self.stored_keys.truncate(end)
        self.stored_values.truncate(end)

    def copy_rows(self) -> Self:
        twin = super().copy_rows()
        twin._lock = ReadWriteLock()
        if self.indexed_rows:
            self.copy_index(twin)
        return twin

    def share_read(self, queries: Tensor, top_k: int) -> float | None:
        queries = self.checked_queries(queries).float().contiguous().cpu()

        def share() -> float | None:
            if self._hubs is None:
                return 1.0
            compared = self.count_compared(queries)
            return None if compared is None else min(1.0, (compared + self._hubs.most) / self._live)

        return self._lock.reading(share)

    def key_blocks(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield ids of the first, and keys ``[H, n, D]`` as an index wants them, block by block."""
        length = block_length(self.num_heads, self.head_dim)
        for first, keys in self.stored_keys.blocks(start, stop, length):
            yield first, keys.float().cpu().contiguous()

    def _update_index(self, first: int) -> None:
        """Let the index and the hubs know the keys from `first` on."""
        end = len(self.stored_keys)
        if not self.indexed_rows:
            if end - self.first_row < EXACT_BELOW:
                return
            first = self.first_row
            self._hubs = HubKeys.of(self._sample())
            self.build_index()
        assert self._hubs is not None
        before = self._hubs if self._few else None
        for start, keys in self.key_blocks(first, end):
            if self.indexed_rows:
                self.extend_index(start, keys)
            ids = torch.arange(start, start + keys.shape[1], device=self.device)
            total = start + keys.shape[1] - self.first_row
            self._hubs = self._hubs.grown(ids, keys.to(self.device), total)
        if self._hubs is not before and self.device.type == "cpu":
            from fotmem.stores.rerank_numpy import (
                FewQueries,  # NumPy is not imported until it is needed
            )

            self._few = FewQueries(self._hubs)
        self.indexed_rows = end

    def _sample(self) -> Tensor:
        """Return some of the keys ``[H, n, D]``, on the store's device."""
        _, keys = next(self.key_blocks(self.first_row, len(self.stored_keys)))
        return keys.to(self.device)

    def _drop_index(self) -> None:
        self.indexed_rows, self._hubs, self._few = 0, None, None

    def _scored(self, queries: Tensor, ids: Tensor, bias: Bias | None) -> Hits:
        """Compute the scores of candidates from the keys as stored."""

        def scored(some: slice) -> Hits:
            chosen = ids[:, some]
            keys = self.stored_keys.take(chosen).float()  # [H, Q, K, D]
            scores = (keys @ queries[:, some, :, None]).squeeze(-1)
            if bias is not None:
                scores += bias(chosen.clamp(min=self.first_row))
            return Hits(chosen, scores.masked_fill_(chosen < 0, -torch.inf))

        length = block_length(self.num_heads, ids.shape[2], self.head_dim)
        return in_blocks(scored, ids.shape[1], length)
