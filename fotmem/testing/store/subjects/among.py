"""Tests of searching and attending among some ids only."""

from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fotmem.errors import OptionError
from fotmem.stores.hits import Hits
from fotmem.stores.id_ranges import IdRanges
from fotmem.testing.store import growing
from fotmem.testing.store.expectations import expect_attention, expect_softmax_of, fail, fault
from fotmem.testing.store.growing import DROPPED, TOP_K, Growth
from fotmem.testing.store.hits import expect_exact, expect_sound, renumbered, share_missing
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import DIM, HEADS, Stores

TOKENS, FIRST, FORGOTTEN = 130, 50, 12
QUERIES, FEW = 80, 16
BEGIN, END = FIRST + FORGOTTEN, FIRST + TOKENS
SETS = {
    "one document": IdRanges([(80, 110)]),
    "some documents": IdRanges([(0, 70), (81, 82), (90, 131), (170, 2**62)]),
    "all but one document": IdRanges([(100, 120)]).complement(0, 2**63 - 1),
    "one key": IdRanges([(END - 1, END)]),
    "every second key": IdRanges([(each, each + 1) for each in range(0, 200, 2)]),
    "all keys": IdRanges([(BEGIN, END)]),
}
"""Sets of ids, forgotten ones and such that a store never had among them."""
EMPTY = {
    "no id": IdRanges(),
    "forgotten ids": IdRanges([(0, BEGIN)]),
    "ids to come": IdRanges([(END, END + 100)]),
}
LARGE = {
    "all but three documents": IdRanges(
        [(9_200, 9_900), (13_000, 13_100), (16_000, 16_300)]
    ).complement(0, 2**40),
    "every other document": IdRanges([(each, each + 500) for each in range(9_000, 21_000, 1_000)]),
    "the oldest quarter": IdRanges([(0, 11_800)]),
    "one document": IdRanges([(12_000, 12_400)]),
}
"""Sets of the ids from 9,000 to 20,102."""


def _ids(among: IdRanges, first: int, end: int) -> Tensor:
    """Return all ids that are in a set and in a store, ascending."""
    ids = torch.arange(first, end)
    return ids[[any(start <= each < stop for start, stop in among) for each in ids.tolist()]]


class Among:
    """Searching and attending among some ids."""

    min_recall: ClassVar[float]

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_search_among_ids(self, stores: Stores, dtype: torch.dtype) -> None:
        """With `among`, `search` finds the best of the keys with these ids, and no others."""
        store, keys, _ = _filled(stores, dtype)
        twin = store.copy()
        for name, among in SETS.items():
            ids = _ids(among, BEGIN, END)
            for query_dtype, top_k in zip(DTYPES, (1, 7, TOKENS), strict=True):
                queries = draw(HEADS, 9, DIM, seed=2, dtype=query_dtype)
                for each in (store, twin):
                    with fault(f"search among {name}"):
                        hits = renumbered(each.search(queries, top_k, among=among), ids)
                        expect_exact(hits, queries, keys[:, ids - FIRST], top_k)
        twin.close()

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("top_k", [7, TOKENS, None])
    def test_attention_among_ids(
        self, stores: Stores, top_k: int | None, dtype: torch.dtype
    ) -> None:
        """With `among`, `attend` returns the softmax over the keys with these ids only."""
        store, keys, values = _filled(stores, dtype)
        queries = draw(HEADS, 9, DIM, seed=2, dtype=dtype)
        for name, among in SETS.items():
            ids = _ids(among, BEGIN, END)
            live = keys[:, ids - FIRST], values[:, ids - FIRST]
            with fault(f"attend among {name}"):
                part = store.attend(queries, top_k=top_k, scale=0.3, among=among)
                if top_k is None:
                    expect_attention(part, naive_attention(queries, *live, 0.3), dtype)
                else:
                    hits = renumbered(store.search(queries, top_k, among=among), ids)
                    expect_softmax_of(hits, part, queries, live[1], 0.3, 0)

    @pytest.mark.parametrize("name", EMPTY)
    def test_nothing_among_ids(self, stores: Stores, name: str) -> None:
        """If the store holds none of the ids, there are no hits, out is 0 and lse -inf."""
        store, keys, values = _filled(stores, torch.float32)
        queries, none = draw(HEADS, 5, DIM, seed=2), keys[:, :0]
        for each in (store, stores.empty()):
            expect_exact(each.search(queries, 3, among=EMPTY[name]), queries, none, 3)
            for top_k in (3, None):
                part = each.attend(queries, top_k=top_k, scale=0.3, among=EMPTY[name])
                expected = naive_attention(queries, none, values[:, :0], 0.3)
                expect_attention(part, expected, torch.float32)

    @pytest.mark.parametrize("name", SETS)
    def test_bias_among_ids(self, stores: Stores, name: str) -> None:
        """With `among` and a bias, hits are the best sums of the keys with these ids."""
        store, keys, values = _filled(stores, torch.float32)
        table, among, ids = 4 * draw(TOKENS, seed=4), SETS[name], _ids(SETS[name], BEGIN, END)
        table[60:70] = -torch.inf
        bias, queries = partial(_look_up, table.to(store.device)), draw(HEADS, 7, DIM, seed=2)
        keys, values = keys[:, ids - FIRST], values[:, ids - FIRST]
        sums = queries.double() @ keys.double().transpose(1, 2) + table[ids - FIRST].double()
        top_k = -(-len(ids) // 4)  # a store chooses among four times as many
        hits = renumbered(store.search(queries, top_k, among=among, bias=bias), ids)
        expect_sound(hits, queries, keys, top_k, bias=lambda places: table[ids[places] - FIRST])
        best = sums.topk(top_k, dim=-1).values
        if not (hits.scores.cpu().double() >= best - 1e-4).all():
            fail(f"search with a bias among {name} misses better sums")
        for wanted in (TOKENS, None):
            part = store.attend(queries, top_k=wanted, scale=0.3, among=among, bias=bias)
            out = (sums * 0.3).softmax(-1).nan_to_num(0.0) @ values.double()
            expect_attention(part, (out, (sums * 0.3).logsumexp(-1)), torch.float32)

    def test_wrong_sets_of_ids(self, stores: Stores) -> None:
        """What is no `IdRanges` is refused, and changes nothing."""
        store, keys, _ = _filled(stores, torch.float32)
        queries = draw(HEADS, 3, DIM)
        wrong: list[Any] = [[(60, 70)], range(60, 70), {60, 61}, torch.arange(60, 70), True, 60, ""]
        for among in wrong:
            for call in (
                partial(store.search, queries, 3, among=among),
                partial(store.attend, queries, top_k=3, scale=0.3, among=among),
                partial(store.attend, queries, top_k=None, scale=0.3, among=among),
            ):
                expect_refusal(OptionError, call, f"among={among!r}")
        expect_exact(store.search(queries, 3), queries, keys[:, FORGOTTEN:], 3, first_id=BEGIN)

    @pytest.mark.parametrize("name", LARGE)
    def test_recall_among_ids(self, two: list[Growth], stores: Stores, name: str) -> None:
        """In a large store, recall among some ids is as good as among all of them."""
        keys, _, queries, _, _ = growing.data()
        queries = queries[:, :QUERIES]
        ids = _ids(LARGE[name], DROPPED, keys.shape[1])
        live = keys[:, ids]
        hits = renumbered(two[0].store.search(queries, TOP_K, among=LARGE[name]), ids)
        expect_sound(hits, queries, live, TOP_K)
        found = growing.recall(hits, queries, live)
        bound = 1.0 if stores.capabilities.exact else self.min_recall
        if found < bound:
            fail(
                f"recall among {len(ids):,} of 11,103 ids must be at least {bound}, got {found:.3}"
            )

    def test_batches_among_ids(self, two: list[Growth], stores: Stores) -> None:
        """In a large store, a query's hits among some ids do not depend on the other queries."""
        keys, _, queries, _, _ = growing.data()
        asked = queries[:, :FEW]
        for name in ("all but three documents", "one document"):
            ask = partial(two[0].store.search, top_k=TOP_K, among=LARGE[name])
            singly = [ask(each) for each in asked.split(1, dim=1)]
            alone = Hits(*(torch.cat(each, 1) for each in zip(*singly, strict=True)))
            share = share_missing(ask(asked), alone, asked, keys)
            if share > (0 if stores.capabilities.exact else 0.01):  # a tie may be rounded
                fail(f"{share:.1%} of the hits of {FEW} queries differ from those of each alone")


def _filled(stores: Stores, dtype: torch.dtype) -> tuple[Any, Tensor, Tensor]:
    """Fill a store, forget some; return it, and all keys and values."""
    keys, values = (draw(HEADS, TOKENS, DIM, seed=seed, dtype=dtype) for seed in range(2))
    store = stores.filled(keys, values, cuts=(1, 64), first_id=FIRST)
    store.forget(FORGOTTEN)
    return store, keys, values


def _look_up(table: Tensor, ids: Tensor) -> Tensor:
    if ids.numel() and not BEGIN <= int(ids.min()) <= int(ids.max()) < END:
        fail(f"a bias must get ids that are held, got {int(ids.min())} to {int(ids.max())}")
    return table[ids - FIRST]
