"""Faults that make results depend on chunks, other queries, threads or other stores."""

import os
import tempfile
import threading
from typing import Any, ClassVar

import torch
from torch import Tensor

from fotmem.stores import Hits
from fotmem.stores.guard import Guard
from tests.broken_stores.registry import OnPurposeError, caught_by
from tests.plain_stores import PlainStore


@caught_by("what_was_added_is_found_at_once")
class IndexIsStale(PlainStore):
    """Searches full blocks of 64 keys only."""

    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 64:
            scores[..., scores.shape[-1] // 64 * 64 :] = -torch.inf
        return scores


@caught_by("what_was_added_is_found_at_once")
class AnswersAreCached(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        known = vars(self).setdefault("known", {})
        key = (str(queries), top_k)
        if key not in known or any(each is not None for each in options.values()):
            known[key] = super().search(queries, top_k, **options)
        found: Hits = known[key]
        return found


@caught_by("chunks_of_adding")
class LargePiecesAreCut(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        if keys.shape[1] >= 255:
            keys, values = keys.clone(), values.clone()
            keys[:, 200:] = 0
        super().add_rows(keys, values)


@caught_by("other_queries")
class QueriesAreMixed(PlainStore):
    """Searches once for the mean of all queries of a call."""

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        near = super().search_rows(queries.float().mean(1, keepdim=True), min(self.size, 4 * top_k))
        scores = torch.einsum(
            "hqd,hkd->hqk", queries.float(), self.key_rows(near.ids)[:, 0].float()
        )
        scores, order = scores.topk(top_k, dim=-1)
        return Hits(near.ids.expand(-1, queries.shape[1], -1).gather(-1, order), scores)


@caught_by("fewer_hits")
class FewHitsAreSearchedBadly(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if top_k > 2 or self.size < 200:
            return super().search_rows(queries, top_k)
        ids, scores = super().search_rows(queries, 3)
        return Hits(ids[..., -top_k:], scores[..., -top_k:])


@caught_by("number_of_threads")
class ThreadsLoseKeys(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        scores[..., : torch.get_num_threads() - 1] = -torch.inf
        return scores


@caught_by("asking_twice")
class SearchingUsesUp(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        found = super().search_rows(queries, top_k)
        self.rows[1] *= 1.01
        return found


@caught_by("building_twice")
class NumbersAreRandom(PlainStore):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.off = 1 + 1e-3 * torch.rand(self.head_dim)  # no two stores draw the same

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return super().search_rows(queries * self.off, top_k)


@caught_by("stores_share_nothing")
class StoresShareTheirRows(PlainStore):
    shared: ClassVar[list[Tensor]] = []

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        self.shared.append(self.rows)

    @property
    def all_keys(self) -> Tensor:
        return self.shared[-1][0, :, : self.size]


@caught_by("flush_and_close")
class FlushingDropsTheNewest(PlainStore):
    def flush(self) -> None:
        super().flush()
        if self.size:
            self.rows[:, :, self.size - 1] = 0


@caught_by("stores_may_be_dropped")
class DroppingOneHarmsOthers(PlainStore):
    opened: ClassVar[list[Tensor]] = []

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        self.opened.append(self.rows)

    def __del__(self) -> None:
        for rows in self.opened:
            rows.zero_()


@caught_by("any_order_of_calls")
class FlushingForgetsWhereToStart(PlainStore):
    def flush(self) -> None:
        super().flush()
        if not self.added_rows:
            self._offset = 0


@caught_by("closing_twice", passes=("nothing_to_attend_to",))
class MustBeClosedOnce(PlainStore):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.close = self.close_once  # type: ignore[method-assign] # the base class guards methods

    def close_once(self) -> None:
        if self._guard.closed:
            raise OnPurposeError("closed already")
        super().close()


@caught_by("nothing_is_left_behind")
class EveryStoreIsRemembered(PlainStore):
    every: ClassVar[list[PlainStore]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.every.append(self)


@caught_by("nothing_is_left_behind")
class FilesAreLeft(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        os.close(tempfile.mkstemp()[0])


class Threaded(PlainStore):
    """Starts a thread that waits for an event."""

    waiting: ClassVar[list[threading.Event]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.over = threading.Event()
        self.waiting.append(self.over)
        threading.Thread(target=self.over.wait, daemon=True).start()


@caught_by("threads_end", message="2 stores that were closed left 2 threads running")
class ThreadsAreNeverEnded(Threaded):
    pass


@caught_by("threads_end", message="2 stores that were dropped left 2 threads running")
class ThreadsEndWhenClosedOnly(Threaded):
    def close(self) -> None:
        super().close()
        self.over.set()


@caught_by("nothing_after_close", message="search after close must be refused by FotmemError")
class AnswersAfterClose(PlainStore):
    """Replaces the guard that refuses calls after `close`."""

    def close(self) -> None:
        super().close()
        self._guard = Guard("AnswersAfterClose")


@caught_by("adding_is_all_or_nothing", message="an error in .* left a change half done")
class WhatFailedIsNotTakenBack(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        self.calls.append("added")

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        return forgotten


@caught_by("forgetting_is_all_or_nothing", message="an error in .* left a change half done")
class WhatWasLostIsNotTold(PlainStore):
    def forget_rows(self, count: int) -> None:
        self.all_keys[:, :count] = 0
        self.calls.append("forgotten")

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        return forgotten
