"""Faults beyond what a small integer or float can count."""

from typing import Any

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Hits
from tests.broken_stores.registry import APPROXIMATE, caught_by
from tests.plain_stores import DiskStore, PlainStore


@caught_by("recall_of_a_huge_store", message="correct up to 16,500 keys only, or a few more")
class ExactUpTo25000(DiskStore):
    exact_until = 25_000


@caught_by("recall_of_a_huge_store", message="correct up to 66,000 keys only, or a few more")
class ExactUpTo70000(DiskStore):
    exact_until = 70_000


@caught_by(
    "recall_of_a_huge_store", APPROXIMATE, message="correct up to 33,000 keys only, or a few more"
)
class GoodUpTo40000(DiskStore):
    exact_until = 40_000


@caught_by("recall_of_a_huge_store", message="correct up to 25,500 keys only, or a few more")
class KeysBeyond30000AreLost(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        scores[..., 30_000:] = -torch.inf
        return scores


@caught_by("look_ups_of_a_huge_store", message="id 65536 in head 0 must be")
class RowsAreLookedUpIn16Bits(PlainStore):
    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        return super()._take(rows, ids % 2**16)


@caught_by("adding_stays_as_quick", message="add copies earlier keys each time")
class GrowsByTheSameEachTime(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        size = self.size + keys.shape[1]
        if size > self.rows.shape[2]:
            rows = self.room(size + 2_000)
            rows[:, :, : self.size] = self.rows[:, :, : self.size]
            self.rows = rows
        super().add_rows(keys, values)


@caught_by("adding_stays_as_quick", APPROXIMATE, message="add copies earlier keys each time")
class CopiesAllInNumpy(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        self.rows = torch.from_numpy(self.rows.numpy().copy())


@caught_by("many_queries", message="did not answer all of 66,536 queries of one call")
class QueriesAreCountedIn16Bits(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        hits = super().search_rows(queries, top_k)
        hits.ids[:, 2**16 - 1 :] = 0
        hits.scores[:, 2**16 - 1 :] = 0
        return hits


@caught_by("many_queries", message="attend did not answer all of 66,536 queries of one call")
class AttendsTo65535Queries(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, lse = super().attend_rows(queries, top_k, scale)
        return PartialAttention(out[:, : 2**16 - 1], lse[:, : 2**16 - 1])


@caught_by("many_heads", message="a store of 17 heads gives wrong answers")
class IdsAreThoseOfTheFirst16Heads(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        return Hits(ids[torch.arange(len(ids)) % 16], scores)


@caught_by("many_heads", message="a store of 130 heads gives wrong answers")
class HeadsAreCountedTo128(PlainStore):
    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        return rows[torch.arange(self.num_heads)[:, None, None] % 128, ids]


@caught_by("large_ids", message=r"ids from 2\*\*24 on are wrong, as if they were kept in float32")
class IdsAreFloat32(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids.float().long(), scores)


@caught_by("large_ids", message=r"ids from 2\*\*31 on are wrong, as if they were kept in int32")
class OffsetsAreInt32(PlainStore):
    def values(self, ids: Tensor) -> Tensor:
        return super().values(ids.int().long())


@caught_by("large_ids", message=r"ids from 2\*\*53 on are wrong, as if they were kept in float64")
class IdsAreFloat64(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids.double().long(), scores)
