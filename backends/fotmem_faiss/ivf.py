"""The `faiss-ivf` and `faiss-ivfpq` stores: inverted lists that grow with the memory."""

import math
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from fotmem import IndexedStore
from fotmem_faiss.lists import Lists
from fotmem_faiss.plugin import IvfOptions, IvfpqOptions
from fotmem_faiss.threads import faiss_threads
from fotmem_faiss.training import ITERATIONS, train_lists

SAMPLE, SMALLEST_SAMPLE = 64, 4096
"""Keys per list that training looks at, and keys at least."""
STEP = 2048
"""Keys that move to new lists in one step."""
SPAN = 0.8
"""New lists are ready when the memory has grown by so much of its size."""


class IvfStore(IndexedStore):
    """Keys in lists, one per cluster; a query looks at the lists whose centres suit it best.

    There are ``2 * sqrt(N)`` lists a head. Whenever the memory has doubled, new lists are trained
    and filled, step by step as keys are added, so that no `add` takes long; until they hold all
    keys, the old ones are searched. No other thread works on it: what a search finds depends on
    nothing but what was added.
    """

    options: IvfOptions
    search_options = frozenset({"nprobe"})
    _lists: Lists
    _work: Iterator[int | Lists] | None = None  # on new lists, step by step
    _pace = 0.0  # of the work, per key that is added
    _owed = 0.0  # work
    _known = 0  # the lists hold the keys before this one
    _trained_for = 0  # so many keys the lists, or those at work, suit

    def _build(self) -> None:
        self._known = len(self._key_rows)
        with faiss_threads(self.options.threads):
            *_, lists = self._new_lists(self._known - self._start)
        assert isinstance(lists, Lists)
        self._lists, self._work = lists, None
        self._retune()
        self._trained_for = self._known - self._start

    def _extend(self, first: int, keys: Tensor) -> None:
        with faiss_threads(self.options.threads):
            self._lists.add(first, keys)
            self._known = first + keys.shape[1]
            size = self._known - self._start
            if self._work is None and size >= 2 * self._trained_for:
                sample = min(size, _sample_size(self._count(size)))
                work = self.num_heads * (ITERATIONS * sample + (1 + SPAN) * size)
                self._work, self._pace, self._owed = self._new_lists(size), work / SPAN / size, 0.0
                self._trained_for = size
            if self._work is not None:
                self._owed += self._pace * keys.shape[1]
                self._pay(self._work)

    def _find(self, queries: Tensor, top_k: int) -> Tensor:
        with faiss_threads(self.options.threads):
            return self._lists.search(queries, self._candidates(top_k))

    def _clone(self, twin: Self) -> None:
        twin._lists = self._lists.copy()
        if self._work is not None:  # the twin begins anew
            twin._work, twin._trained_for = None, self._trained_for // 2

    def _retune(self) -> None:
        self._lists.tune(self.options.nprobe)

    def share_read(self, queries: Tensor, top_k: int) -> float:
        with self._lock.reading():
            if not self._indexed or self._hubs is None:
                return 1.0
            looked = self._lists.keys_read(queries.float().cpu()) + self._hubs.most
            return min(1.0, looked / len(self))

    def _pay(self, work: Iterator[int | Lists]) -> None:
        while self._owed > 0:
            step = next(work)
            if isinstance(step, Lists):
                self._lists, self._work = step, None
                self._retune()
                return
            self._owed -= step

    def _count(self, size: int) -> int:
        """Tell how many lists so many keys should have."""
        return min(size, self.options.nlist or round(2 * math.sqrt(size)))

    def _new_lists(self, size: int) -> Iterator[int | Lists]:
        """Train lists for so many keys, and fill them.

        Yields
        ------
        int or Lists
            After every step the work done: how many keys were compared with all centres of a head;
            at the end the lists.
        """
        count = self._count(size)
        generator = torch.Generator().manual_seed(self.options.seed)
        chosen = torch.randperm(size, generator=generator)[: _sample_size(count)].sort().values
        lists = yield from train_lists(
            (self._some_keys(head, chosen) for head in range(self.num_heads)),
            count,
            seed=self.options.seed,
            code_size=self._code_size(),
            first=self._start,
        )
        while lists.end < self._known:
            start, stop = lists.end, min(lists.end + STEP, self._known)
            for first, keys in self._key_blocks(start, stop):
                lists.add(first, keys)
            yield self.num_heads * (stop - start)  # no more than it was, or it never caught up
        yield lists

    def _some_keys(self, head: int, chosen: Tensor) -> Tensor:
        """Return keys of a head ``[n, D]``, counted from the first that lists hold."""
        _, keys = self._key_rows.since(self._start)
        return keys[head, chosen.to(keys.device)].float().cpu()

    def _candidates(self, top_k: int) -> int:
        """Tell how many to score by full keys: float16 may swap those of nearly the same score."""
        return top_k + top_k // 8 + 4

    def _code_size(self) -> int | None:
        """Bytes that a key takes in the lists; None: it is kept in float16."""
        return None


def _sample_size(count: int) -> int:
    return max(SAMPLE * count, SMALLEST_SAMPLE)


class IvfpqStore(IvfStore):
    """As `IvfStore`, its lists of codes of a quarter of a byte per dimension (Jegou et al. 2011).

    The best by their codes are scored anew by their full keys.
    """

    options: IvfpqOptions
    search_options = frozenset({"nprobe", "rerank"})

    def _candidates(self, top_k: int) -> int:
        return self.options.rerank * top_k

    def _code_size(self) -> int:
        sizes = range(max(1, self.head_dim // 4), 0, -1)
        return next(size for size in sizes if self.head_dim % size == 0)
