"""Faults that appear only in large stores."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Bias, Hits, MemoryStore, SavedIndex
from tests.broken_stores.registry import APPROXIMATE, caught_by
from tests.plain_stores import DiskStore, PlainStore


@caught_by("recall")
class ClaimsToBeExact(DiskStore):
    pass


@caught_by("recall", APPROXIMATE)
class FindsTooLittle(DiskStore):
    pass


@caught_by("softmax_mass", APPROXIMATE)
class MissesTheBest(PlainStore):
    """Recall 31/32, but always without the best hit."""

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if self.size < 1000 or top_k < 3 or top_k == self.size:
            return super().search_rows(queries, top_k)
        ids, scores = super().search_rows(queries, top_k + 2)
        return Hits(ids[..., 2:], scores[..., 2:])


@caught_by("the_newest_keys_are_found", APPROXIMATE)
class TheLastPieceIsNotIndexed(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 1000:
            scores[..., scores.shape[-1] // 256 * 256 :] = -torch.inf
        return scores


@caught_by("norms_never_seen_before", APPROXIMATE)
class NormsAreCapped(PlainStore):
    """Assumes that norms stay as small as when it was built, as an augmented index does."""

    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 5000:
            norms = self.all_keys[..., : scores.shape[-1], :].norm(dim=-1)
            scores = scores.masked_fill((norms > 1.1 * norms[:, :5000].max())[:, None], -torch.inf)
        return scores


@caught_by("sound_while_growing", APPROXIMATE)
class ScoresOfTheIndexAreNotThoseOfKeys(PlainStore):
    """Ranks well, but returns the scores of its compressed keys."""

    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        return super()._best(queries, keys.half() if keys.shape[1] > 1000 else keys, top_k)


@caught_by("sound_while_growing", APPROXIMATE)
class IdsAreFoundTwice(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        found = super().search_rows(queries, top_k)
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
    def value_rows(self, ids: Tensor) -> Tensor:
        return super().value_rows(ids % 2**14)


@caught_by("large_attention")
class LargeAttentionIsApproximate(PlainStore):
    def live_blocks(self) -> Any:
        for keys, values in super().live_blocks():
            most = 10_000
            yield keys[:, :most], values[:, :most]


@caught_by("forgetting_in_a_large_store", APPROXIMATE)
class ForgottenKeysCrowdOutTheRest(PlainStore):
    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        if self.added_rows < 1000:
            return super()._search_live(queries, wanted)
        ids, scores = self.search_rows(queries, wanted)
        live = ids >= self.forgotten_rows
        order = live.int().argsort(dim=-1, descending=True, stable=True)
        found = Hits(ids.where(live, -1), scores.where(live, -torch.inf))
        return Hits(*(each.gather(-1, order) for each in found))


@caught_by("equal_to_brute_force", APPROXIMATE)
class IsNeverExact(DiskStore):
    exact_until = 8


@caught_by("tuning")
class AnythingIsTuned(PlainStore):
    def tune(self, **options: Any) -> None:
        vars(self).update(options)


LARGE = 3000
"""Number of keys beyond which the following stores are wrong."""


@caught_by("indexed_long_keys", APPROXIMATE)
class LongKeysAreLost(PlainStore):
    """Finds keys that are twice as long as all others, but not those ten times as long."""

    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > LARGE:
            norms = self.all_keys[..., : scores.shape[-1], :].float().norm(dim=-1)
            scores = scores.masked_fill((norms > 5 * norms[:, :LARGE].max())[:, None], -torch.inf)
        return scores


@caught_by("indexed_tensors_are_copied", APPROXIMATE)
class LargePiecesAreAliased(PlainStore):
    """Keeps a reference to the caller's last values, and looks them up there."""

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        self.last = values

    def value_rows(self, ids: Tensor) -> Tensor:
        first = self.size - self.last.shape[1]
        if self.size < LARGE or int(ids.min()) < first:
            return super().value_rows(ids)
        return self._take(self.last, ids - first)


@caught_by("indexed_scores", APPROXIMATE)
class LargeQueriesAreRounded(PlainStore):
    def _best(self, queries: Tensor, keys: Tensor, top_k: int) -> Hits:
        rounded = queries.to(self.dtype).float() if keys.shape[1] > LARGE else queries
        return super()._best(rounded, keys, top_k)


@caught_by("indexed_scores", APPROXIMATE)
class QueriesAreScaledInPlace(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        found = super().search_rows(queries, top_k)
        if self.size > LARGE:
            queries *= 1.01
        return found


@caught_by("indexed_bias", APPROXIMATE)
class AnIndexKnowsNoBias(PlainStore):
    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        if self.size > LARGE:
            return self._search_live(queries, top_k)
        return super().search_rows_biased(queries, top_k, bias)


@caught_by("indexed_copies", APPROXIMATE)
class CopiesLoseTheirFirstBlock(PlainStore):
    def copy_rows(self) -> MemoryStore:
        twin = super().copy_rows()
        if self.size > LARGE:
            assert isinstance(twin, PlainStore)
            twin.rows[0, :, :1000] = 0
        return twin


class SavesItsIndex(PlainStore):
    """Has no index, but says that it loads one."""

    loaded = False

    def save_index(self) -> SavedIndex:
        return SavedIndex({"library": "plain 1"}, self.size, {})

    def fill(
        self,
        blocks: Iterable[tuple[Tensor, Tensor]],
        index: SavedIndex | None = None,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> bool:
        super().fill(blocks, progress=progress)
        self.loaded = index is not None
        return self.loaded


@caught_by("indexed_loading", APPROXIMATE)
class ALoadedIndexMissesKeys(SavesItsIndex):
    def _hide(self, scores: Tensor) -> Tensor:
        if self.loaded:
            scores[..., 100:2000] = -torch.inf
        return scores


@caught_by("indexed_loading", APPROXIMATE, message="does not take over the index")
class ASavedIndexIsNeverLoaded(SavesItsIndex):
    def fill(self, blocks: Iterable[tuple[Tensor, Tensor]], *_: Any, **__: Any) -> bool:
        super().fill(blocks)
        return False


@caught_by("indexed_searching_together", APPROXIMATE)
class LargeQueriesLieInAnAttribute(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if self.size < LARGE:
            return super().search_rows(queries, top_k)
        self.asked = queries
        self.wanted = top_k
        return super().search_rows(self.asked, self.wanted)


@caught_by("index_while_adding")
class TheIndexKnowsKeysTooEarly(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        before, size = self.size, self.size + keys.shape[1]
        if not LARGE < size <= self.rows.shape[2]:
            super().add_rows(keys, values)
            return
        self.rows[0, :, before:size] = 99  # whatever lies there, so that a single search shows it
        self.size = size
        self.rows[0, :, before:size] = keys
        self.rows[1, :, before:size] = values


@caught_by("indexed_completeness")
class OneKeyIsLost(PlainStore):
    def _hide(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > LARGE:
            scores[..., 1000:3000:700] = -torch.inf
        return scores


@caught_by("indexed_attention", APPROXIMATE)
class LaterBlocksGetTheWeightsOfTheirNeighbours(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, lse = super().attend_rows(queries, top_k, scale)
        if queries.shape[1] > 500:
            out[:, 500:] = out[:, 500:].roll(1, 1)
        return PartialAttention(out, lse)
