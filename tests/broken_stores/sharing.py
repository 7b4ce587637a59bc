"""Faults of caches: shared between stores, or without a bound."""

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from fotmem.stores import Hits
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore

SHARED = "a store answers from the keys of another store of its class"
KEPT = "more with each call: a cache must have a bound"


@caught_by("stores_share_no_answers", message=SHARED)
class HitsLieInAClassAttribute(PlainStore):
    hits: ClassVar[dict[Any, Hits]] = {}

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        key = queries.float().numpy().tobytes(), top_k, self.size
        if key not in self.hits:
            self.hits[key] = super().search_rows(queries, top_k)
        return self.hits[key]


@caught_by("stores_share_no_answers", message=SHARED)
class HitsLieInOneBuffer(PlainStore):
    """The hits of one store are overwritten by those of another."""

    scores: ClassVar[Tensor] = torch.empty(2**16)

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        if scores.numel() > len(self.scores):
            return Hits(ids, scores)
        return Hits(ids, self.scores[: scores.numel()].view(scores.shape).copy_(scores))


@caught_by("stores_share_no_answers", message=SHARED)
class LastHitsLieInAClassAttribute(PlainStore):
    """Two stores that search at the same time overwrite it."""

    last: ClassVar[list[Hits]] = []

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        self.last[:] = [super().search_rows(queries, top_k)]
        return self.last[0]


class Answers(PlainStore):
    """Caches all answers by the content of the queries."""

    def answers(self) -> dict[Any, Any]:
        found: dict[Any, Any] = vars(self).setdefault("known", {})
        return found

    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        given = any(each is not None for each in options.values())
        if given or not isinstance(queries, Tensor) or queries.dtype != torch.float32:
            return super().search(queries, top_k, **options)
        key = queries.detach().numpy().tobytes(), top_k, self.added_rows, self.forgotten_rows
        if key not in self.answers():
            self.answers()[key] = super().search(queries, top_k)
        return Hits(*(each.clone() for each in self.answers()[key]))


@caught_by("different_questions_are_not_kept", message=KEPT)
class AnswersAreKept(Answers):
    pass


@caught_by("different_questions_are_not_kept", message=KEPT)
class AnswersAreKeptElsewhere(Answers):
    every: ClassVar[dict[int, dict[Any, Any]]] = {}

    def answers(self) -> dict[Any, Any]:
        return self.every.setdefault(id(self), {})


@caught_by("different_questions_are_not_kept", message=KEPT)
class QuestionsAreKeptAsBytes(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        vars(self).setdefault("asked", set()).add(queries.float().numpy().tobytes())
        return super().search_rows(queries, top_k)


@caught_by("different_questions_are_not_kept", message=KEPT)
class LookUpsAreKept(PlainStore):
    @functools.cache  # noqa: B019 - that is the fault
    def _looked_up(self, ids: bytes, count: int) -> Tensor:
        chosen = torch.frombuffer(bytearray(ids), dtype=torch.int64)
        return self._take(self.all_values, chosen.view(self.num_heads, count, -1)).clone()

    def value_rows(self, ids: Tensor) -> Tensor:
        return self._looked_up(ids.contiguous().numpy().tobytes(), ids.shape[1])
