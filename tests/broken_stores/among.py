"""Faults of searching and attending among some ids."""

from typing import Any

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Bias, Hits, IdRanges
from tests.broken_stores.registry import APPROXIMATE, caught_by
from tests.plain_stores import PlainStore


@caught_by("search_among_ids", message="not among those that were asked for")
class SearchIgnoresTheSet(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        return super().search(queries, top_k, **{**options, "among": None})


@caught_by("search_among_ids", message="fewer than the .* keys that exist")
class OtherIdsTakePlaces(PlainStore):
    """Removes other keys from the hits, and finds none in their place."""

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        ids, scores = self.search_rows(queries, top_k)
        good = rows.contains(ids)
        order = good.int().argsort(dim=-1, descending=True, stable=True)
        found = Hits(ids.where(good, -1), scores.where(good, -torch.inf))
        return Hits(*(each.gather(-1, order) for each in found))


@caught_by("search_among_ids", message="not among those that were asked for")
class SetsAreOfRows(PlainStore):
    """Takes the ids of a set for rows."""

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        shifted = [(start + 1, stop + 1) for start, stop in rows]
        known = IdRanges(shifted).within(self.forgotten_rows, self.added_rows)
        if len(known) < top_k:
            known = rows
        return super().search_rows_among(queries, top_k, known, bias)


@caught_by("attention_among_ids", passes=("search_among_ids",))
class AttentionIgnoresTheSet(PlainStore):
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, **options: Any
    ) -> PartialAttention:
        given = {**options, "among": None}
        return super().attend(queries, top_k=top_k, scale=scale, **given)


@caught_by("nothing_among_ids", passes=("search_among_ids",))
class NoIdsAreAllIds(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        return super().search(queries, top_k, **{**options, "among": options.get("among") or None})


@caught_by("nothing_among_ids", passes=("search_among_ids",))
class NoneOfTheIdsGivesNan(PlainStore):
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, **options: Any
    ) -> PartialAttention:
        out, lse = super().attend(queries, top_k=top_k, scale=scale, **options)
        return PartialAttention(out / lse.isfinite()[..., None], lse)


@caught_by("bias_among_ids", passes=("search_among_ids", "bias_of_search"))
class BiasIsForgottenAmongIds(PlainStore):
    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        return super().search_rows_among(queries, top_k, rows, None)


@caught_by("wrong_sets_of_ids", passes=("search_among_ids",))
class AnythingIsASetOfIds(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        among = options.get("among")
        if isinstance(among, list):
            among = IdRanges(among)
        return super().search(queries, top_k, **{**options, "among": among})


@caught_by("recall_among_ids", APPROXIMATE, passes=("search_among_ids", "recall"))
class ManyIdsAreSoughtAmongTheBestOnly(PlainStore):
    """Finds what is among the best 256 of all, and no more."""

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        if self.size < 1000:
            return super().search_rows_among(queries, top_k, rows, bias)
        ids, scores = self.search_rows(queries, 256)
        scores, order = scores.where(rows.contains(ids), -torch.inf).topk(top_k)
        return Hits(ids.gather(-1, order).where(scores > -torch.inf, -1), scores)


@caught_by("batches_among_ids", APPROXIMATE, passes=("search_among_ids", "large_batches"))
class OneQueryIsSearchedBadlyAmongIds(PlainStore):
    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        if queries.shape[1] > 1 or self.size < 1000:
            return super().search_rows_among(queries, top_k, rows, bias)
        ids, scores = super().search_rows_among(queries, top_k + 2, rows, bias)
        return Hits(ids[..., 2:], scores[..., 2:])


@caught_by("temporaries_of_search", message="among", passes=("search_among_ids",))
class AllScoresAmongIdsAtOnce(PlainStore):
    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        places = rows.at(torch.arange(len(rows)))
        scores = queries.float() @ self.all_keys[:, places].float().transpose(1, 2)
        if bias is not None:
            scores += bias(places)
        scores, best = scores.topk(top_k)
        return Hits(places[best], scores)
