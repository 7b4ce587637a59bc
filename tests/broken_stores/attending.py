"""Faults of `attend`."""

from typing import Any

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.plugin import StoreCapabilities
from fotmem.stores import Bias, Hits, TailEstimate
from tests.broken_stores.registry import caught_by
from tests.plain_stores import PlainStore


@caught_by("log_sum_exp")
class LseIsOffByLogTwo(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, lse = super().attend_rows(queries, top_k, scale)
        return PartialAttention(out, lse + 0.6931472)


@caught_by("log_sum_exp")
class LseIsToBaseTwo(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, lse = super().attend_rows(queries, top_k, scale)
        return PartialAttention(out, lse * 1.442695)


@caught_by("log_sum_exp")
class LseIsTheLargestScore(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, _ = super().attend_rows(queries, top_k, scale)
        return PartialAttention(out, self.search_rows(queries, 1).scores[..., 0] * scale)


@caught_by("dense_attention")
class DenseAttentionSkipsTheLastKey(PlainStore):
    def live_blocks(self) -> Any:
        for keys, values in super().live_blocks():
            yield keys[:, :-1], values[:, :-1]


@caught_by("dense_attention")
class DenseAttentionCountsForgottenKeys(PlainStore):
    def live_blocks(self) -> Any:
        yield self.all_keys, self.all_values


@caught_by("dense_attention")
class DenseAttentionIsTheTopKeys(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, top_k or 32, scale)


@caught_by("softmax_over_hits")
class ScaleIsIgnored(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, top_k, self.head_dim**-0.5)


@caught_by("softmax_over_hits")
class TopKIsIgnored(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, None, scale)


@caught_by("softmax_over_hits")
class AttendsToOneHitLess(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, top_k and max(1, top_k - 1), scale)


@caught_by("softmax_over_hits")
class WeightsAreNotNormalised(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, lse = super().attend_rows(queries, top_k, scale)
        return PartialAttention(out * 0.99, lse)


@caught_by("softmax_over_hits", passes=("closing_twice",))
class OutIsAlwaysFloat32(PlainStore):
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, **options: Any
    ) -> PartialAttention:
        out, lse = super().attend(queries, top_k=top_k, scale=scale, **options)
        return PartialAttention(out.float(), lse)


@caught_by("huge_scores")
class SoftmaxOverflows(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        hits = self._search_live(queries, min(top_k or len(self), len(self)))
        weights = (hits.scores * scale).exp()[..., None]
        total = weights.sum(2)
        out = (weights * self.value_rows(hits.ids).float()).sum(2) / total
        return PartialAttention(out, total[..., 0].log())


@caught_by("nothing_to_attend_to", passes=("closing_twice",))
class NothingGivesNan(PlainStore):
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, **options: Any
    ) -> PartialAttention:
        out, lse = super().attend(queries, top_k=top_k, scale=scale, **options)
        return PartialAttention(out if len(self) else out / 0, lse)


@caught_by("merged_halves")
class LseKnowsTheScaleTwice(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        out, lse = super().attend_rows(queries, top_k, scale)
        return PartialAttention(out, lse * scale)


@caught_by("bias_of_attention")
class AttentionIgnoresItsBias(PlainStore):
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, **options: Any
    ) -> PartialAttention:
        return super().attend(queries, top_k=top_k, scale=scale)


@caught_by("bias_of_attention")
class BiasComesAfterTheScale(PlainStore):
    def attend(
        self, queries: Tensor, *, top_k: int | None, scale: float, **options: Any
    ) -> PartialAttention:
        bias = options.get("bias")
        after = None if bias is None else (lambda ids: bias(ids) / scale)
        return super().attend(queries, top_k=top_k, scale=scale, **{**options, "bias": after})


@caught_by("bias_of_search")
class SearchIgnoresItsBias(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        return super().search(queries, top_k)


@caught_by("bias_of_search")
class BiasGetsInnerIds(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        bias = options.get("bias")
        inner = None if bias is None else (lambda ids: bias(ids - self._offset))
        return super().search(queries, top_k, **{**options, "bias": inner})


@caught_by("bias_of_search")
class BiasReordersTheTopOnly(PlainStore):
    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        ids, scores = self._search_live(queries, top_k)
        scores, order = (scores + bias(ids)).sort(dim=-1, descending=True)
        return Hits(ids.gather(-1, order), scores)


@caught_by("bias_that_hides_nearly_all")
class NothingIsHidden(PlainStore):
    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias) -> Hits:
        return super().search_rows_biased(queries, top_k, lambda ids: bias(ids).clamp(min=-1e4))


ESTIMATING = StoreCapabilities(exact=True, estimates_tail=True)


@caught_by("an_estimated_tail", ESTIMATING, message="the tail is dropped, not estimated")
class TailIsDropped(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, top_k or 512, scale)


@caught_by("an_estimated_tail", ESTIMATING, message="the tail is dropped, not estimated")
class TailBeyond20000IsDropped(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, top_k or 20_000, scale)


@caught_by("an_estimated_tail", ESTIMATING, message="the values of the tail are dropped")
class ValuesOfTheTailAreDropped(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        lse = super().attend_rows(queries, top_k, scale).lse
        return PartialAttention(super().attend_rows(queries, top_k or 512, scale).out, lse)


class Telling(PlainStore):
    """It reads all keys, and says so."""

    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        shape = queries.shape[:2]
        return TailEstimate(torch.zeros(shape), torch.ones(shape))


@caught_by("what_it_expects_of_its_estimates", ESTIMATING, message="gives the error .*nan")
class EstimatesNan(Telling):
    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        return TailEstimate(queries.norm(dim=2) * torch.nan, queries.new_ones(queries.shape[:2]))


@caught_by("what_it_expects_of_its_estimates", ESTIMATING, message="shape of the error")
class EstimatesForAllHeadsAtOnce(Telling):
    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        return TailEstimate(torch.zeros(queries.shape[1]), torch.ones(queries.shape[:2]))


@caught_by("what_it_expects_of_its_estimates", ESTIMATING, message="expects an error of 0.5")
class EstimatesErrorsThatCannotBe(Telling):
    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        shape = queries.shape[:2]
        return TailEstimate(torch.full(shape, 0.5), torch.ones(shape))


@caught_by("what_it_expects_of_its_estimates", ESTIMATING, message="a share_read of 40.00")
class CountsKeysNotShares(Telling):
    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        shape = queries.shape[:2]
        return TailEstimate(torch.zeros(shape), torch.full(shape, 40.0))


@caught_by("what_it_expects_of_its_estimates", ESTIMATING, message="and the error is")
class SaysThatAllIsRead(Telling):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        return super().attend_rows(queries, top_k or 16, scale)


@caught_by("what_it_expects_of_its_estimates", ESTIMATING, message="is the same after other calls")
class EstimatesWhatItLastSearched(Telling):
    def tail_estimate(self, queries: Tensor, *, scale: float) -> TailEstimate | None:
        shape = queries.shape[:2]
        count = float("search_rows" in self.calls)
        return TailEstimate(torch.full(shape, count), torch.full(shape, 0.5))
