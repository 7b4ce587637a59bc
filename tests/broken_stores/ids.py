"""Faults of ids, `forget` and `copy`."""

import copy
from typing import Any

import torch
from torch import Tensor

from fotmem.errors import IdError
from fotmem.stores import Hits, MemoryStore
from tests.broken_stores.registry import OnPurposeError, caught_by
from tests.plain_stores import PlainStore


@caught_by("forgotten_keys_are_gone")
class IdsShiftWhenForgetting(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids.where(ids < 0, ids - self.forgotten_rows), scores)


@caught_by("forgotten_keys_are_gone")
class ForgetsOneTooMany(PlainStore):
    def forget(self, count: int) -> None:
        super().forget(count + 1 if count else 0)


@caught_by("forgotten_keys_are_gone")
class ForgottenKeysAreFound(PlainStore):
    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        return self.search_rows(queries, wanted)


@caught_by("forgotten_keys_are_gone")
class ForgottenKeysTakePlaces(PlainStore):
    """Removes forgotten keys from the hits, and finds no others in their place."""

    def _search_live(self, queries: Tensor, wanted: int) -> Hits:
        ids, scores = self.search_rows(queries, wanted)
        live = ids >= self.forgotten_rows
        order = live.int().argsort(dim=-1, descending=True, stable=True)
        found = Hits(ids.where(live, -1), scores.where(live, -torch.inf))
        return Hits(*(each.gather(-1, order) for each in found))


@caught_by("forgotten_keys_are_gone")
class ForgettingAllFails(PlainStore):
    def forget(self, count: int) -> None:
        if count > len(self):
            raise OnPurposeError("there are fewer keys")
        super().forget(count)


@caught_by("forgetting_step_by_step")
class ForgetsTheNewest(PlainStore):
    def forget_rows(self, count: int) -> None:
        if count:
            self.rows[:, :, self.size - 1] = 0


@caught_by("ids_go_on")
class IdsStartAgain(PlainStore):
    def forget(self, count: int) -> None:
        super().forget(count)
        if not len(self):
            self.size = self._added = self._forgotten = 0


@caught_by("start_at")
class StartAtIsIgnored(PlainStore):
    def start_at(self, first_id: int) -> None:
        if first_id < 0 or self.added_rows:
            super().start_at(first_id)


@caught_by("start_at")
class StartAtWorksAtAnyTime(PlainStore):
    def start_at(self, first_id: int) -> None:
        if first_id < 0:
            super().start_at(first_id)
        self._offset = first_id


@caught_by("start_at")
class IdsAreNarrow(PlainStore):
    def search(self, queries: Tensor, top_k: int, **options: Any) -> Hits:
        ids, scores = super().search(queries, top_k, **options)
        return Hits(ids.int().long(), scores)


@caught_by("ids_of_a_long_text")
class RowsAreCountedIn16Bits(PlainStore):
    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        ids, scores = super().search_rows(queries, top_k)
        return Hits(ids.to(torch.int16).long(), scores)


@caught_by("keys_and_values_come_back_as_stored")
class MissingRowsAreNotZero(PlainStore):
    def values(self, ids: Tensor) -> Tensor:
        return super().values(ids.where(ids >= 0, self.first_id))


@caught_by("keys_and_values_come_back_as_stored")
class ValuesAreRounded(PlainStore):
    def value_rows(self, ids: Tensor) -> Tensor:
        return super().value_rows(ids).bfloat16().to(self.dtype)


@caught_by("keys_and_values_come_back_as_stored")
class KeysAreKeptCentred(PlainStore):
    def key_rows(self, ids: Tensor) -> Tensor:
        centre = self.all_keys.float().mean(1)[:, None, None]
        return (super().key_rows(ids).float() - centre + centre * 1.001).to(self.dtype)


@caught_by("heads_do_not_mix")
class ValuesAreAnotherHeads(PlainStore):
    def value_rows(self, ids: Tensor) -> Tensor:
        return self._take(self.all_values.flip(0), ids)


@caught_by("wrong_ids")
class WrongIdsGiveZeros(PlainStore):
    def values(self, ids: Tensor) -> Tensor:
        try:
            return super().values(ids)
        except IdError:
            return torch.zeros(*ids.shape, self.head_dim, dtype=self.dtype)


@caught_by("copies_are_independent")
class CopySharesItsRows(PlainStore):
    def copy_rows(self) -> MemoryStore:
        return copy.copy(self)


@caught_by("copies_are_independent")
class CopyIsTheStore(PlainStore):
    def copy(self) -> MemoryStore:
        return self


@caught_by("copies_are_independent")
class CopyCountsFromZero(PlainStore):
    def copy_rows(self) -> MemoryStore:
        twin = self.new_empty()
        for keys, values in self.live_blocks():
            twin.add(keys, values)
        return twin


@caught_by("copies_are_independent")
class CopyKnowsWhatWasForgotten(PlainStore):
    def copy_rows(self) -> MemoryStore:
        twin = self.new_empty()
        twin.start_at(self._offset)
        if self.added_rows:
            twin.add(self.all_keys, self.all_values)
        return twin
