"""Tests of 6,200 keys in bfloat16: an index changes nothing that holds for small stores."""

import functools
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem.stores.hits import Hits
from fotmem.stores.store import OVERFETCH, MemoryStore
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.expectations import (
    expect,
    expect_rows,
    expect_softmax_of,
    expect_state,
    fail,
)
from fotmem.testing.store.hits import expect_exact, expect_same, expect_sound
from fotmem.testing.store.interleaved import together
from fotmem.testing.store.naive import DTYPES, LAYOUTS, draw, laid_out
from fotmem.testing.store.stores import Stores, built_once
from fotmem.testing.store.while_adding import found_while_adding

HEADS, TOKENS, QUERIES, DIM, TOP_K = 2, 6_200, 48, 32, 16
PIECE = 1_240
FEW = 3
THREADS = 3


class StoreContents(NamedTuple):
    """A store and its contents."""

    store: MemoryStore
    keys: Tensor
    values: Tensor


@functools.cache
def data() -> tuple[Tensor, Tensor, Tensor]:
    """Draw keys and values in bfloat16, and queries."""
    keys, values, queries = attention_data(HEADS, TOKENS, QUERIES, DIM)
    return keys.bfloat16(), values.bfloat16(), queries


class IndexedSearch:
    """A store with an index."""

    min_recall: ClassVar[float]
    _filled: ClassVar[dict[str, StoreContents]]

    @pytest.fixture
    def filled(self, stores: Stores, request: pytest.FixtureRequest) -> StoreContents:
        """A store whose input tensors were overwritten later, built once for a class."""

        def build() -> StoreContents:
            keys, values, _ = data()
            store = stores.empty(num_heads=HEADS, head_dim=DIM, dtype=torch.bfloat16)
            for pair in zip(keys.split(PIECE, 1), values.split(PIECE, 1), strict=True):
                given = [each.clone() for each in pair]
                store.add(*given)
                for each in given:
                    each.fill_(3)
            store.flush()
            stores.release(store)
            return StoreContents(store, keys, values)

        return built_once(request, "_filled", build)

    @classmethod
    def teardown_class(cls) -> None:
        """Close what was built."""
        for filled in vars(cls).get("_filled", {}).values():
            filled.store.close()
        cls._filled = {}
        super().teardown_class()  # type: ignore[misc]

    def test_indexed_tensors_are_copied(self, filled: StoreContents) -> None:
        """With an index: a change of the caller's keys and values does not reach the store."""
        store, keys, values = filled
        expect_state(store, first_id=0, next_id=TOKENS)
        for ids in torch.arange(TOKENS).expand(HEADS, 1, -1).split(700, 2):
            expect_rows(store.keys(ids), ids, keys, "keys")
            expect_rows(store.values(ids), ids, values, "values")

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_indexed_scores(self, filled: StoreContents, dtype: torch.dtype) -> None:
        """With an index: scores are float32 inner products with the stored keys."""
        queries = data()[2].clone()
        queries[:, 0], queries[:, 1], queries[:, 2] = 0, 1e-6 * queries[:, 1], 1e3 * queries[:, 2]
        queries = queries.to(dtype)
        for layout in LAYOUTS:
            asked = laid_out(queries, layout)
            before = asked.clone()
            hits = filled.store.search(asked, TOP_K)
            expect_sound(hits, asked, filled.keys, TOP_K)
            filled.store.attend(asked, top_k=TOP_K, scale=0.3)
            expect(torch.equal(asked, before), True, "whether queries are as they were before")

    def test_indexed_completeness(self, filled: StoreContents, stores: Stores) -> None:
        """With an index: an exact store misses no key, in whichever pieces keys were added."""
        if not stores.capabilities.exact:
            pytest.skip("the store declares that it is approximate: see test_recall")
        keys, values, queries = data()
        centred = keys.float() - keys.float().mean(1, keepdim=True)
        cuts = (1, 700, 701, 3333, TOKENS - 63)
        others = [stores.filled(keys, values), stores.filled(keys, values, cuts=cuts)]
        for part, store in enumerate([filled.store, *others]):
            expect_exact(store.search(queries, 300), queries, keys, 300)
            best = centred[:, part::6]  # most keys are the best for themselves, and others near
            expect_exact(store.search(best, 2), best, keys, 2)

    def test_indexed_attention(self, filled: StoreContents) -> None:
        """With an index: attention of many queries is the softmax over their hits."""
        few = data()[2]
        queries = torch.cat([few * (1 + i / 40) for i in range(15)], 1)  # more than one block
        top_k = 128
        hits = filled.store.search(queries, top_k)
        part = filled.store.attend(queries, top_k=top_k, scale=0.05)
        expect_softmax_of(hits, part, queries, filled.values, 0.05, 0)

    def test_indexed_bias(self, filled: StoreContents, stores: Stores) -> None:
        """With an index: a bias is added to scores, and -inf hides a key."""
        queries, table = data()[2], torch.linspace(-20, 20, TOKENS)
        table[TOKENS // 2 : TOKENS // 2 + 900] = -torch.inf
        here = table.to(filled.store.device)
        hits = filled.store.search(queries, TOP_K, bias=lambda ids: here[ids])
        expect_sound(hits, queries, filled.keys, TOP_K, bias=lambda ids: table[ids])
        if not stores.capabilities.exact:
            return
        products = queries.double() @ filled.keys.double().transpose(1, 2)
        near = products.topk(OVERFETCH * TOP_K, dim=-1).indices
        least = (products + table.double()).gather(-1, near).topk(TOP_K, dim=-1).values
        if (hits.scores.double() < least - 1e-3).any():
            fail("search with a bias misses better keys among those with the largest products")

    def test_indexed_copies(self, filled: StoreContents) -> None:
        """With an index: a copy gives the same answers, and is independent of its original."""
        store, keys, values = filled
        queries = data()[2]
        before = store.search(queries, TOP_K)
        twin, other = store.copy(), store.copy()
        expect_same(twin.search(queries, TOP_K), before, queries, keys, "a copy and its original")
        ids = before.ids
        expect_rows(twin.keys(ids), ids, keys, "keys of a copy")
        expect_rows(twin.values(ids), ids, values, "values of a copy")
        giants = 2 * queries[:, :FEW].bfloat16()
        twin.add(giants, giants)
        other.forget(TOKENS - 10)
        expect_state(store, first_id=0, next_id=TOKENS)
        expect_same(store.search(queries, TOP_K), before, queries, keys, "before and after")
        joined = torch.cat([keys, giants], 1)
        expect_sound(twin.search(queries, TOP_K), queries, joined, TOP_K)
        few = other.search(queries, TOP_K)
        expect_sound(few, queries, keys[:, -10:], TOP_K, first_id=TOKENS - 10)
        for each in (twin, other):
            each.close()

    def test_indexed_loading(self, filled: StoreContents, stores: Stores) -> None:
        """With an index that can be saved: once loaded, it gives the same answers, and grows."""
        store, keys, values = filled
        saved = store.save_index()
        if saved is None:
            return
        arrays = {name: np.array(array) for name, array in saved.arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False  # as those of a file are
        queries, before = data()[2], store.search(data()[2], TOP_K)
        twin = stores.empty(num_heads=HEADS, head_dim=DIM, dtype=torch.bfloat16)
        blocks = zip(keys.split(PIECE, 1), values.split(PIECE, 1), strict=True)
        if not twin.fill(blocks, replace(saved, arrays=arrays)):
            fail("fill does not take over the index that save_index of an equal store returned")
        same = twin.search(queries, TOP_K)
        expect_same(same, before, queries, keys, "a loaded index and the one that was saved")
        expect_rows(twin.values(same.ids), same.ids, values, "values beside a loaded index")
        giants = 2 * queries[:, :FEW].bfloat16()
        twin.add(giants, giants)
        expect_sound(twin.search(queries, TOP_K), queries, torch.cat([keys, giants], 1), TOP_K)
        twin.close()

    def test_indexed_long_keys(self, filled: StoreContents) -> None:
        """With an index: a few keys much longer than all earlier ones are found."""
        store, keys, _ = filled
        twin, queries = store.copy(), draw(HEADS, 200, DIM, seed=4)
        long = draw(HEADS, FEW, DIM, seed=5)
        long *= 10 * keys.float().norm(dim=2).amax() / long.norm(dim=2, keepdim=True)
        twin.add(long.bfloat16(), long.bfloat16())
        best = (queries.double() @ long.bfloat16().double().transpose(1, 2)).max(2)
        among = (queries.double() @ keys.double().transpose(1, 2)).amax(2)
        found = twin.search(queries, TOP_K).ids[..., 0].cpu() == TOKENS + best.indices
        share = found[best.values > among].double().mean()
        if share < self.min_recall:
            fail(
                f"{FEW} keys that are ten times as long as all earlier ones are found by "
                f"{share:.0%} of the queries for which they are the best, expected at least "
                f"{self.min_recall:.0%} (min_recall)"
            )
        twin.close()

    def test_indexed_searching_together(self, filled: StoreContents) -> None:
        """With an index: threads that search at the same time get the same answers as alone."""
        queries = data()[2]
        expected = filled.store.search(queries, TOP_K)

        def search(thread: int) -> None:
            for begin in range(thread, QUERIES, THREADS):
                some = slice(begin, begin + 1 + begin % 5)
                found.append((some, filled.store.search(queries[:, some], TOP_K)))

        found: list[tuple[slice, Hits]] = []
        together(filled.store, [functools.partial(search, thread) for thread in range(THREADS)])
        for some, hits in found:
            expect_sound(hits, queries[:, some], filled.keys, TOP_K)
            alone = Hits(expected.ids[:, some], expected.scores[:, some])
            shared = (hits.ids[..., None] == alone.ids[..., None, :]).any(-1).double().mean()
            if shared < 0.95:  # a tie of two lists may be rounded
                fail(f"{1 - shared:.0%} of the hits differ while other threads search")

    def test_index_while_adding(self, stores: Stores) -> None:
        """With an index: while one thread adds, others find no half-added keys."""
        keys, values, queries = data()
        first, queries = 2 * PIECE, queries[:, :4]
        store = stores.filled(keys[:, :first], values[:, :first])
        pieces = zip(keys[:, first:].split(310, 1), values[:, first:].split(310, 1), strict=True)
        for before, hits in found_while_adding(store, list(pieces), queries, TOP_K):
            expect_sound(hits, queries, keys, TOP_K)
            products = queries.double() @ keys[:, :before].double().transpose(1, 2)
            least = products.topk(TOP_K, dim=-1).values
            if not stores.capabilities.exact:
                least = least[..., -1:]
            found = (hits.scores.double() >= least - 0.01).double().mean()
            if found < (1 if stores.capabilities.exact else self.min_recall / 2):
                fail(
                    f"a search while adding found {found:.0%} of the best among the {before:,} "
                    "keys added before it"
                )
