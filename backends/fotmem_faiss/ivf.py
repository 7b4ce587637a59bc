"""The `faiss-ivf` and `faiss-ivfpq` stores: inverted lists that grow with the memory."""

import math
from collections.abc import Generator
from typing import Self

import faiss
import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Arrays, GrowingRows, IndexedStore
from fotmem_faiss.lists import Lists
from fotmem_faiss.options import IvfOptions, IvfpqOptions
from fotmem_faiss.threads import faiss_threads
from fotmem_faiss.training import ITERATIONS, train_lists

SAMPLE, SMALLEST_SAMPLE = 64, 4096
"""Keys per list in the sample for training, and the least keys of it."""
STEP = 2048
"""Keys that move to new lists in one step."""
SPAN = 0.8
"""New lists are ready when the memory has grown by this share."""


class IvfStore(IndexedStore):
    """Keys in lists, one per cluster; a query searches the lists with the best centres.

    A head has ``2 * sqrt(N)`` lists. Whenever the memory has doubled, new lists are trained and
    filled, step by step as keys are added, so that no `add` takes long. The old lists are searched
    until the new ones hold all keys. No background thread works on it: what a search finds depends
    only on what was added.
    """

    options: IvfOptions
    search_options = frozenset({"nprobe"})
    index_library = f"faiss {faiss.__version__}"
    _lists: Lists
    _training: Generator[int, None, Lists] | None = None  # of new lists, step by step
    _coming: Lists | None = None  # new ones that are being filled
    _pace = 0.0  # of the work on them, per key that is added
    _owed = 0.0  # work
    _known = 0  # the lists hold the keys before this one
    _trained_for = 0  # the number of keys that the lists, or those in training, suit

    def build_index(self) -> None:
        self._known = len(self.stored_keys)
        self._trained_for = self._known - self.first_row
        self._begin_anew(self._trained_for)
        self._owed = math.inf
        faiss_threads(self.options.threads, self._pay)

    def extend_index(self, first: int, keys: Tensor) -> None:
        faiss_threads(self.options.threads, lambda: self._grow(first, keys))

    def _grow(self, first: int, keys: Tensor) -> None:
        self._lists.add(first, keys)
        self._known = first + keys.shape[1]
        size = self._known - self.first_row
        if not self._in_work and size >= 2 * self._trained_for:
            sample = min(size, _sample_size(self._count(size)))
            work = self.num_heads * (ITERATIONS * sample + (1 + SPAN) * size)
            self._begin_anew(size)
            self._pace, self._owed = work / SPAN / size, 0.0
            self._trained_for = size
        if self._in_work:
            self._owed += self._pace * keys.shape[1]
            self._pay()

    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        candidates = self._candidates(top_k)
        return faiss_threads(self.options.threads, lambda: self._lists.search(queries, candidates))

    def copy_index(self, twin: Self) -> None:
        twin._lists = self._lists.copy()
        if self._in_work:  # the twin begins anew
            twin._training = twin._coming = None
            twin._trained_for = self._trained_for // 2

    def index_bytes(self) -> int:
        coming = self._coming
        return self._lists.ram_bytes + (0 if coming is None else coming.ram_bytes)

    def index_arrays(self) -> Arrays:
        suited = self._trained_for // 2 if self._in_work else self._trained_for  # as copies have it
        return {**self._lists.arrays(), "trained_for": np.array([suited])}

    def load_index(self, arrays: Arrays) -> None:
        self._lists = Lists.of_arrays(arrays)
        self._training = self._coming = None
        self._known, self._trained_for = self._lists.end, int(arrays["trained_for"][0])

    def tune_index(self) -> None:
        self._lists.tune(self.options.nprobe)

    def count_compared(self, queries: Tensor) -> float:
        return self._lists.keys_read(queries)

    @property
    def _in_work(self) -> bool:
        return self._training is not None or self._coming is not None

    def _begin_anew(self, size: int) -> None:
        """Begin to train new lists for `size` keys."""
        count, rows, start = self._count(size), self.stored_keys, self.first_row
        generator = torch.Generator().manual_seed(self.options.seed)
        chosen = torch.randperm(size, generator=generator)[: _sample_size(count)].sort().values
        self._coming = None
        # The generator does not hold this store: dropping a store frees its memory at once.
        self._training = train_lists(
            (_some_keys(rows, start, head, chosen) for head in range(self.num_heads)),
            count,
            seed=self.options.seed,
            code_size=self._code_size(),
            first=start,
        )

    def _pay(self) -> None:
        """Do the work that is owed: train new lists, fill them, use them when they hold all keys.

        It is counted in keys that are compared with all centres of a head.
        """
        while self._owed > 0 and self._in_work:
            if self._training is not None:
                try:
                    self._owed -= next(self._training)
                except StopIteration as trained:
                    self._training, self._coming = None, trained.value
            elif self._coming is not None and self._coming.end < self._known:
                start, stop = self._coming.end, min(self._coming.end + STEP, self._known)
                for first, keys in self.key_blocks(start, stop):
                    self._coming.add(first, keys)
                self._owed -= self.num_heads * (stop - start)
            elif self._coming is not None:
                self._lists, self._coming = self._coming, None
                self.tune_index()

    def _count(self, size: int) -> int:
        """Return the number of lists for `size` keys."""
        return min(size, self.options.nlist or round(2 * math.sqrt(size)))

    def _candidates(self, top_k: int) -> int:
        """Return the number of candidates: float16 may swap keys of nearly the same score."""
        return top_k + top_k // 8 + 4

    def _code_size(self) -> int | None:
        """Bytes of a key in the lists; None: it is kept in float16."""
        return None


def _some_keys(rows: GrowingRows, start: int, head: int, chosen: Tensor) -> Tensor:
    """Return keys of a head ``[n, D]``, counted from `start`."""
    return rows.take_of_heads(torch.tensor(head), start + chosen).float().cpu()


def _sample_size(count: int) -> int:
    return max(SAMPLE * count, SMALLEST_SAMPLE)


class IvfpqStore(IvfStore):
    """As `IvfStore`, its lists of codes of a quarter of a byte per dimension (Jegou et al. 2011).

    The best by their codes are re-ranked by their full keys.
    """

    options: IvfpqOptions
    search_options = frozenset({"nprobe", "rerank"})

    def _candidates(self, top_k: int) -> int:
        return min(self.options.rerank * top_k, max(top_k, len(self.stored_keys)))

    def _code_size(self) -> int:
        sizes = range(max(1, self.head_dim // 4), 0, -1)
        return next(size for size in sizes if self.head_dim % size == 0)
