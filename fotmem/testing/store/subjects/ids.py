"""Ids, and what is forgotten or copied."""

import copy
from functools import partial

import pytest
import torch

from fotmem.errors import DtypeError, IdError, OptionError, ShapeError
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import expect, expect_attention, expect_rows, expect_state
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_sound
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair


class Ids:
    """Ids, forgetting and copies."""

    def test_ids_go_on(self, stores: Stores) -> None:
        """Ids count keys from 0 in the order of adding, and continue after keys are forgotten."""
        keys, values = pair(90)
        store, first = stores.empty(), 0
        expect_state(store, first_id=0, next_id=0)
        for begin, end, dropped in ((0, 30, 7), (30, 31, 0), (31, 60, 53), (60, 90, 10)):
            store.add(keys[:, begin:end], values[:, begin:end])
            expect_contents(store, keys[:, first:end], values[:, first:end], first_id=first)
            store.forget(dropped)
            first = min(first + dropped, end)
            expect_contents(store, keys[:, first:end], values[:, first:end], first_id=first)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_keys_and_values_come_back_as_stored(self, stores: Stores, dtype: torch.dtype) -> None:
        """`keys` and `values` return bit for bit what was added; id -1 returns zeros."""
        keys, values = pair(200)
        store = stores.filled(keys, values, cuts=(50, 51), dtype=dtype)
        generator = torch.Generator().manual_seed(2)
        some = torch.randint(-1, 200, (HEADS, 9, 11), generator=generator)
        shaped = (
            some,
            some[:, :, ::2],
            some[:, :1].expand(HEADS, 5, 11),
            some[:, :, :0],
            some[:, :0],
        )
        for ids in shaped:
            expect_rows(store.keys(ids), ids, keys.to(dtype), "keys")
            expect_rows(store.values(ids), ids, values.to(dtype), "values")

    @pytest.mark.parametrize("dropped", [0, 1, 13, 29, 30, 31])
    def test_forgotten_keys_are_gone(self, stores: Stores, dropped: int) -> None:
        """`forget(n)` drops exactly the `n` oldest keys, and no search finds them."""
        keys, values = pair(30)
        keys[:, :20] *= 5
        store = stores.filled(keys, values)
        store.forget(dropped)
        kept = min(dropped, 30)
        live = keys[:, kept:], values[:, kept:]
        expect_contents(store, *live, first_id=kept)
        queries = draw(HEADS, 5, DIM, seed=2)
        for top_k in (1, 4, 50):
            expect_exact(store.search(queries, top_k), queries, live[0], top_k, first_id=kept)
        part = store.attend(queries, top_k=None, scale=0.3)
        expect_attention(part, naive_attention(queries, *live, 0.3), torch.float32)

    def test_forgetting_step_by_step(self, stores: Stores) -> None:
        """Adding and forgetting in turn, as a sliding window does, keeps the right keys and ids."""
        keys, values = pair(200)
        store, first = stores.empty(), 0
        for begin in range(0, 200, 8):
            store.add(keys[:, begin : begin + 8], values[:, begin : begin + 8])
            store.forget(max(0, len(store) - 21))
            first = max(0, begin + 8 - 21)
            if begin % 40 == 0 or begin == 192:
                live = keys[:, first : begin + 8], values[:, first : begin + 8]
                expect_contents(store, *live, first_id=first)

    def test_ids_of_a_long_text(self, stores: Stores) -> None:
        """A sliding window works for 67,100 keys: more than 16 bits can count."""
        keys, values = pair(1_100)
        store, queries = stores.empty(), draw(HEADS, 4, DIM, seed=2)
        for _ in range(61):
            store.add(keys, values)
            store.forget(len(store) - 100)
        first_id = 67_000
        keys, values = keys[:, -100:], values[:, -100:]
        expect_state(store, first_id=first_id, next_id=first_id + 100)
        hits = store.search(queries, 5)
        expect_sound(hits, queries, keys, 5, first_id=first_id)
        expect_rows(store.values(hits.ids), hits.ids, values, "values", first_id=first_id)
        if stores.capabilities.exact:
            expect_contents(store, keys, values, first_id=first_id)

    def test_wrong_ids(self, stores: Stores) -> None:
        """Ids that the store does not hold, of a wrong dtype or of a wrong shape are refused."""
        keys = draw(HEADS, 30, DIM)
        store = stores.filled(keys, keys, first_id=2)
        store.forget(3)
        held = torch.tensor([5, -1, 31]).expand(HEADS, 1, 3)
        for look_up in (store.keys, store.values):
            for outside in (-2, 4, 32, 10**12):
                ids = held.clone()
                ids[1, 0, 1] = outside
                expect_refusal(IdError, partial(look_up, ids), f"id {outside}")
            expect_refusal(DtypeError, partial(look_up, held.int()), "ids of int32")
            expect_refusal(ShapeError, partial(look_up, held[0]), "ids of two dimensions")
            expect_refusal(ShapeError, partial(look_up, held[:1]), "ids of one head")
        expect_contents(store, keys[:, 3:], keys[:, 3:], first_id=5)

    def test_start_at(self, stores: Stores) -> None:
        """`start_at` sets the first id of an empty store, for a store that replaces another."""
        keys, values = pair(40)
        for first in (100, 2**40):
            store = stores.empty()
            expect_refusal(OptionError, partial(store.start_at, -1), "start_at(-1)")
            store.start_at(first)
            expect_state(store, first_id=first, next_id=first)
            store.add(keys, values)
            store.forget(4)
            expect_contents(store, keys[:, 4:], values[:, 4:], first_id=first + 4)
            expect_refusal(OptionError, partial(store.start_at, 7), "start_at after add")
            expect_refusal(OptionError, partial(store.forget, -1), "forget(-1)")
            expect_contents(store, keys[:, 4:], values[:, 4:], first_id=first + 4)

    @pytest.mark.parametrize("dropped", [0, 12, 40])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_copies_are_independent(self, stores: Stores, dtype: torch.dtype, dropped: int) -> None:
        """A copy has the same keys, values and ids; a change of one does not affect the other."""
        keys, values = pair(60, dtype)
        other = draw(HEADS, 20, DIM, seed=2, dtype=dtype)
        for duplicate in (_copied, copy.deepcopy):
            store = stores.filled(keys[:, :40], values[:, :40], first_id=5)
            store.forget(dropped)
            twin = duplicate(store)
            expect((twin.dtype, twin.device.type), (dtype, store.device.type), "dtype and device")
            twin.add(other, other)
            store.add(keys[:, 40:], values[:, 40:])
            third = duplicate(twin)
            twin.forget(3)
            begin = 5 + dropped
            mine = keys[:, dropped:], values[:, dropped:]
            theirs = [torch.cat([rows[:, dropped:40], other], 1) for rows in (keys, values)]
            expect_contents(store, *mine, first_id=begin)
            expect_contents(twin, *(rows[:, 3:] for rows in theirs), first_id=begin + 3)
            store.forget(60)
            stores.close(store)
            expect_contents(twin, *(rows[:, 3:] for rows in theirs), first_id=begin + 3)
            expect_contents(third, theirs[0], theirs[1], first_id=begin)
            twin.close()
            third.close()


def _copied(store: MemoryStore) -> MemoryStore:
    return store.copy()
