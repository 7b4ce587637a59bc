"""Faults of `search`."""

from typing import Any

import torch
from torch import Tensor

from fotmem.stores import Hits
from tests.broken_stores.registry import OnPurposeError, caught_by, sorted_hits
from tests.plain_stores import PlainStore


@caught_by("scores_are_inner_products_of_stored_keys")
class IdsAreOffByOne(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        return Hits((ids + 1).clamp(max=self.size - 1), scores)


@caught_by("heads_do_not_mix")
class HeadsAreSwapped(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return Hits(*(each.flip(0) for each in super().search_rows(queries.flip(0), top_k)))


@caught_by("heads_do_not_mix")
class OneHeadAnswersForAll(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return Hits(*(each[:1].expand_as(each) for each in super().search_rows(queries, top_k)))


@caught_by("larger_norms_win")
class RanksByCosine(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        lengths = keys.float().norm(dim=-1)[:, None].clamp(min=1e-30)
        scores = queries @ keys.float().transpose(1, 2)
        ids = (scores / lengths).topk(top_k, dim=-1).indices
        return sorted_hits(ids, scores.gather(-1, ids))


@caught_by("larger_norms_win")
class RanksByDistance(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        ids = torch.cdist(queries, keys.float()).topk(top_k, dim=-1, largest=False).indices
        scores = queries @ keys.float().transpose(1, 2)
        return sorted_hits(ids, scores.gather(-1, ids))


@caught_by("scores_are_inner_products_of_stored_keys")
class ScoresAreDistances(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        ids, scores = super()._best(queries, keys, top_k)
        return Hits(ids, scores - 1)


@caught_by("best_first")
class HitsAreUnsorted(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return Hits(*(each.roll(1, dims=-1) for each in super().search_rows(queries, top_k)))


@caught_by("best_first")
class WorstHitsComeFirst(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return Hits(*(each.flip(-1) for each in super().search_rows(queries, top_k)))


@caught_by("equal_to_brute_force")
class LastBlockIsDropped(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        scores[..., scores.shape[-1] // 16 * 16 :] = -torch.inf
        return scores


@caught_by("equal_to_brute_force")
class FirstKeyIsDropped(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        scores[..., 0] = -torch.inf
        return scores


@caught_by("equal_to_brute_force")
class OnlyTheLastBlockCounts(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        scores[..., : (scores.shape[-1] - 1) // 16 * 16] = -torch.inf
        return scores


@caught_by("scores_are_inner_products_of_stored_keys")
class ScoresAreScaledTwice(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        return Hits(ids, scores * self.head_dim**-0.5)


@caught_by("scores_are_inner_products_of_stored_keys")
class QueriesAreRounded(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return super().search_rows(queries.to(self.dtype), top_k)


@caught_by("scores_are_inner_products_of_stored_keys")
class ScoresAreOfRoundedKeys(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        return super()._best(queries, keys.half(), top_k)


@caught_by("small_and_large_queries")
class QueriesAreNormalised(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        return super()._best(torch.nn.functional.normalize(queries, dim=-1), keys, top_k)


@caught_by("shapes_and_dtypes")
class ScoresAreDouble(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids, scores.double())


@caught_by("shapes_and_dtypes")
class ScoresHaveTheQueriesDtype(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids, scores.to(queries.dtype))


@caught_by("shapes_and_dtypes")
class IdsAreInt32(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids.int(), scores)


@caught_by("shapes_and_dtypes")
class AnswersWithATuple(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Any:
        return tuple(super().search(queries, top_k, **options))


@caught_by("top_k_beyond_the_length")
class FailsBeyondTheLength(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        if isinstance(top_k, int) and top_k > len(self) > 0:
            raise OnPurposeError("selected index k out of range")
        return super().search(queries, top_k, **options)


@caught_by("top_k_beyond_the_length")
class ColumnsAreMissing(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        found = super().search(queries, top_k, **options)
        return Hits(*(each[..., : len(self)] for each in found)) if len(self) else found


@caught_by("top_k_beyond_the_length")
class PaddingComesFirst(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        order = (ids >= 0).int().argsort(dim=-1, stable=True)
        return Hits(ids.gather(-1, order), scores.gather(-1, order))


@caught_by("top_k_beyond_the_length")
class PaddingScoresZero(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids, scores.where(ids >= 0, 0))


@caught_by("top_k_beyond_the_length")
class PaddingRepeatsTheBest(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        found = super().search(queries, top_k, **options)
        return Hits(*(each.where(found.ids >= 0, each[..., :1]) for each in found))


@caught_by("an_empty_store")
class FailsWhileEmpty(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        if not len(self):
            raise OnPurposeError("the index is empty")
        return super().search(queries, top_k, **options)


@caught_by("duplicates_are_all_found")
class EqualKeysAreOne(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        scores = queries @ keys.float().transpose(1, 2)
        equal = (keys[:, :, None] == keys[:, None]).all(-1).tril(-1).any(-1)
        scores, ids = scores.masked_fill(equal[:, None], -torch.inf).topk(top_k, dim=-1)
        return Hits(ids.where(scores > -torch.inf, -1), scores)


@caught_by("ties")
class OnlyPositiveScoresCount(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(scores == 0, -torch.inf)


@caught_by("queries_unlike_all_keys")
class NegativeScoresAreNoHits(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(scores < 0, -torch.inf)


@caught_by("zero_and_huge_norms")
class ZeroKeysAreDropped(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        scores = queries @ keys.float().transpose(1, 2)
        empty = (keys == 0).all(-1)[:, None]
        scores, ids = scores.masked_fill(empty, -torch.inf).topk(top_k, dim=-1)
        return Hits(ids.where(scores > -torch.inf, -1), scores)


@caught_by("zero_and_huge_norms")
class HugeNormsOverflow(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        keys = keys.float()
        squares = keys.square().sum(-1)[:, None] + queries.square().sum(-1)[..., None]
        distances = torch.cdist(queries, keys).square()
        scores, ids = ((squares - distances) / 2).topk(top_k, dim=-1)
        return Hits(ids, scores)


@caught_by("one_key")
class OneKeyIsSqueezed(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if self.size == 1:
            raise OnPurposeError("expected two dimensions, got one")
        return super().search_rows(queries, top_k)


@caught_by("many_heads_and_dimensions")
class HeadsAreCountedToFour(PlainStore):
    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        return rows[torch.arange(self.num_heads)[:, None, None] % 4, ids]


@caught_by("many_heads_and_dimensions")
class DimensionsAreCutAt128(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        return super()._best(queries[..., :128], keys[..., :128], top_k)
