"""Faults in what a store does to its inputs and results."""

from typing import Any

import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.stores import Hits
from tests.broken_stores.registry import OnPurposeError, caught_by
from tests.plain_stores import PlainStore


@caught_by("callers_tensors_are_copied", message="keeps the caller's tensors instead of copies")
class TensorsAreAliased(PlainStore):
    """Keeps the caller's tensors until a second add joins them."""

    pieces: tuple[Tensor, ...] = ()

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        self.pieces = (keys, values) if self.size == keys.shape[1] else ()

    @property
    def all_keys(self) -> Tensor:
        return self.pieces[0] if self.pieces else super().all_keys

    @property
    def all_values(self) -> Tensor:
        return self.pieces[1] if self.pieces else super().all_values


@caught_by("ids_go_on", message="add changed the caller's keys in place", passes=())
class KeysAreScaledInPlace(PlainStore):
    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        super().add_rows(keys, values)
        keys /= 2


@caught_by("shapes_and_dtypes", message="search changed the caller's queries in place")
class QueriesAreNormalisedInPlace(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        if queries.dtype == torch.float32:
            queries /= 1.25
        return super().search_rows(queries, top_k)


@caught_by("softmax_over_hits", message="attend changed the caller's queries in place")
class QueriesAreScaledByAttention(PlainStore):
    def attend_rows(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        queries *= scale
        return super().attend_rows(queries, top_k, 1.0)


@caught_by("callers_tensors_are_not_changed", message="values changed the caller's ids in place")
class IdsAreClampedInPlace(PlainStore):
    def values(self, ids: Tensor) -> Tensor:
        found = super().values(ids)
        ids.clamp_(min=0)
        return found


@caught_by("autocast_and_the_default_dtype")
class ScoresAreCastAlong(PlainStore):
    """Computes scores again, outside of the methods that the base class protects from autocast."""

    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        missing = ids < 0
        again = (self.keys(ids).float() @ queries.float()[..., None]).squeeze(-1).float()
        bias = options.get("bias")
        again = again if bias is None else again + bias(ids.clamp(min=0))
        return Hits(ids, again.masked_fill(missing, -torch.inf) if ids.numel() else scores)


@caught_by("results_belong_to_the_caller")
class AnswersLieInAScratchBuffer(PlainStore):
    scratch: Tensor | None = None

    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        if self.scratch is None or self.scratch.shape != scores.shape:
            self.scratch = torch.empty_like(scores)
        return Hits(ids, self.scratch.copy_(scores))


@caught_by("gradients_and_inference_mode")
class GradientsFlow(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        hits = super().search(queries, top_k, **options)
        return Hits(hits.ids, hits.scores + 0 * queries[..., :1].float())


@caught_by("any_strides")
class WantsContiguousQueries(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        if not queries.is_contiguous():
            raise OnPurposeError("queries must be contiguous")
        return super().search(queries, top_k, **options)


@caught_by("any_strides")
class ReadsMemoryAsIfContiguous(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        if keys.ndim == 3 and keys.shape[2] == self.head_dim and keys.numel():
            strides = (keys.shape[1] * keys.shape[2], keys.shape[2], 1)
            room = keys.untyped_storage().nbytes() // keys.element_size()
            if keys.storage_offset() + keys.numel() <= room:
                keys = keys.as_strided(keys.shape, strides)
        super().add(keys, values)


@caught_by("dtypes_are_converted")
class TakesItsOwnDtypeOnly(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        if keys.dtype in {torch.float16, torch.bfloat16} and keys.dtype != self.dtype:
            raise OnPurposeError(f"expected {self.dtype}")
        super().add(keys, values)


@caught_by("adding_nothing")
class AddingNothingFails(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        if keys.shape[1] == 0:
            raise OnPurposeError("nothing to add")
        super().add(keys, values)


@caught_by("nan_and_inf_are_refused")
class NanIsAccepted(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        super().add(keys.nan_to_num(), values.nan_to_num())


@caught_by("nan_and_inf_are_refused")
class NanIsAcceptedInQueries(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        return super().search(queries.nan_to_num(), top_k, **options)


@caught_by("nan_and_inf_are_refused")
class RefusedKeysStay(PlainStore):
    """Counts keys before it checks them."""

    def add(self, keys: Tensor, values: Tensor) -> None:
        before = self.added_rows
        if keys.ndim == 3:
            self._added += keys.shape[1]
        super().add(keys, values)
        self._added = before + keys.shape[1]


@caught_by("overflow_is_refused")
class ChecksBeforeItConverts(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        if bool(keys.isfinite().all() & values.isfinite().all()):
            most = torch.finfo(self.dtype).max
            keys, values = keys.clamp(-most, most), values.clamp(-most, most)
        super().add(keys, values)


@caught_by("wrong_shapes_and_dtypes_are_refused")
class DoubleIsAccepted(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        super().add(
            *(each.float() if each.dtype == torch.float64 else each for each in (keys, values))
        )


@caught_by("wrong_shapes_and_dtypes_are_refused")
class TopKOfZeroIsAccepted(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        if top_k == 0:
            top_k = 1
        return super().search(queries, top_k, **options)


@caught_by("wrong_shapes_and_dtypes_are_refused")
class RefusesByAssertion(PlainStore):
    def add(self, keys: Tensor, values: Tensor) -> None:
        assert keys.shape == values.shape
        super().add(keys, values)


@caught_by("wrong_shapes_and_dtypes_are_refused")
class FewerHeadsAreRepeated(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        if queries.ndim == 3 and queries.shape[0] == 1:
            queries = queries.expand(self.num_heads, -1, -1)
        return super().search(queries, top_k, **options)
