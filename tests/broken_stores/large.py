"""Stores that are wrong only when they are large."""

from typing import Any

import torch
from torch import Tensor

from fotmem import Hits
from tests.broken_stores.registry import APPROXIMATE, caught_by
from tests.plain_stores import GrowingLossyStore, PlainStore


@caught_by("recall")
class ClaimsToBeExact(GrowingLossyStore):
    pass


@caught_by("recall", APPROXIMATE)
class FindsTooLittle(GrowingLossyStore):
    pass


@caught_by("softmax_mass", APPROXIMATE)
class MissesTheBest(PlainStore):
    """Recall 31/32, but never the one that counts most."""

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        if self.size < 1000 or top_k < 3 or top_k == self.size:
            return super()._search(queries, top_k)
        ids, scores = super()._search(queries, top_k + 2)
        return Hits(ids[..., 2:], scores[..., 2:])


@caught_by("the_newest_keys_are_found", APPROXIMATE)
class TheLastPieceIsNotIndexed(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 1000:
            scores[..., scores.shape[-1] // 256 * 256 :] = -torch.inf
        return scores


@caught_by("norms_never_seen_before", APPROXIMATE)
class NormsAreCapped(PlainStore):
    """Knows how large norms are from what it was built of, as an augmented index does."""

    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 5000:
            norms = self.all_keys[..., : scores.shape[-1], :].norm(dim=-1)
            scores = scores.masked_fill((norms > 1.1 * norms[:, :5000].max())[:, None], -torch.inf)
        return scores


@caught_by("sound_while_growing", APPROXIMATE)
class ScoresOfTheIndexAreNotThoseOfKeys(PlainStore):
    """Ranks well, but tells the scores of its compressed keys."""

    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        return super()._best(queries, keys.half() if keys.shape[1] > 1000 else keys, top_k)


@caught_by("sound_while_growing", APPROXIMATE)
class IdsAreFoundTwice(PlainStore):
    def _search(self, queries: Tensor, top_k: int) -> Hits:
        found = super()._search(queries, top_k)
        if self.size < 1000:
            return found
        return Hits(*(torch.cat([each[..., :1], each[..., :-1]], -1) for each in found))


@caught_by("building_large_twice", APPROXIMATE)
class SeedIsNotFixed(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 1000:
            dropped = vars(self).setdefault("dropped", torch.rand(100_000) < 0.02)
            scores = scores.masked_fill(dropped[: scores.shape[-1]], -torch.inf)
        return scores


@caught_by("large_batches", APPROXIMATE)
class OneQueryIsSearchedBadly(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        if queries.shape[1] > 1 or keys.shape[1] < 1000:
            return super()._best(queries, keys, top_k)
        ids, scores = super()._best(queries, keys, top_k + 2)
        return Hits(ids[..., 2:], scores[..., 2:])


@caught_by("large_lookups", APPROXIMATE)
class LargeIdsAreNarrow(PlainStore):
    def _values(self, ids: Tensor) -> Tensor:
        return super()._values(ids % 2**14)


@caught_by("large_attention")
class LargeAttentionIsApproximate(PlainStore):
    def _stream(self) -> Any:
        for keys, values in super()._stream():
            most = 10_000
            yield keys[:, :most], values[:, :most]


@caught_by("forgetting_in_a_large_store", APPROXIMATE)
class ForgottenKeysCrowdOutTheRest(PlainStore):
    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        if self._added < 1000:
            return super()._search_live(queries, wanted)
        ids, scores = self._search(queries, wanted)
        live = ids >= self._forgotten
        order = live.int().argsort(dim=-1, descending=True, stable=True)
        found = Hits(ids.where(live, -1), scores.where(live, -torch.inf))
        return Hits(*(each.gather(-1, order) for each in found))


@caught_by("equal_to_brute_force", APPROXIMATE)
class IsNeverExact(GrowingLossyStore):
    exact_until = 8


@caught_by("tuning")
class AnythingIsTuned(PlainStore):
    def tune(self, **options: Any) -> None:
        vars(self).update(options)
