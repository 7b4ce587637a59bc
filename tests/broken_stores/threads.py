"""Faults of stores that several threads use."""

import functools
import math
import threading
from typing import Any

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Hits, MemoryStore
from tests.broken_stores.registry import OnPurposeError, caught_by
from tests.plain_stores import PlainStore


@caught_by("searching_together")
class ScratchIsShared(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self.asked = queries
        self.wanted = top_k
        return super().search_rows(self.asked, self.wanted)


@caught_by("searching_together")
class ScoresLieInOneBuffer(PlainStore):
    buffer = torch.empty(2**14)

    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        shape = (*queries.shape[:2], keys.shape[1])
        buffer = self.buffer[: math.prod(shape)].view(shape)
        torch.matmul(queries, keys.float().transpose(1, 2), out=buffer)
        scores, ids = buffer.topk(top_k, dim=-1)
        return Hits(ids, scores)


@caught_by("searching_together")
class OneSearchAtATime(PlainStore):
    busy = False

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if self.busy:
            raise OnPurposeError("another search is running")
        self.busy = True
        try:
            return super().search_rows(queries, top_k)
        finally:
            self.busy = False


@caught_by("attending_together")
class OneLookUpAtATime(PlainStore):
    def value_rows(self, ids: Tensor) -> Tensor:
        self.asked = ids
        return super().value_rows(self.asked)


@caught_by("searching_while_adding")
class RowsArePublishedBeforeTheyAreWritten(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        begin, count = self.size, keys.shape[1]
        super().add_rows(torch.zeros_like(keys), torch.zeros_like(values))
        self.rows[0, :, begin : begin + count] = keys
        self.rows[1, :, begin : begin + count] = values


@caught_by("searching_while_adding")
class IndexIsEmptiedFirst(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        size, self.size = self.size, 0  # `search_rows` cannot do with that
        rows = torch.cat([self.rows[:, :, :size], torch.stack([keys, values])], 2)
        self.rows = rows
        self.size = rows.shape[2]


@caught_by("searching_together")
class GivesZerosWhileBusy(PlainStore):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lock = threading.Lock()

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if not self.lock.acquire(blocking=False):
            return Hits(*(each * 0 for each in super().search_rows(queries, top_k)))
        try:
            return super().search_rows(queries, top_k)
        finally:
            self.lock.release()


class Locked(PlainStore):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lock = threading.RLock()


@caught_by("no_search_waits_for_another", message="^AssertionError: search kept another thread's")
class OneLockAroundEverySearch(Locked):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        with self.lock:
            return super().search_rows(queries, top_k)


@caught_by("no_search_waits_for_another", message="^AssertionError: search kept another thread's")
class OneLockForTheClass(PlainStore):
    lock = threading.Lock()

    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        with self.lock:
            return super().search(queries, top_k, **options)


@caught_by("no_search_waits_for_another", message="^AssertionError: attend with top_k=None kept")
class OneLockAroundAttention(Locked):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is not None:
            return super().attend_rows(queries, top_k, scale)
        with self.lock:
            return super().attend_rows(queries, top_k, scale)


@caught_by("adding_together", message="two threads that add at once disturb each other")
class AnyThreadMayAdd(PlainStore):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The base class guards methods of classes, but not of instances.
        self.add = functools.partial(MemoryStore.add.__wrapped__, self)  # type: ignore[attr-defined,method-assign]
