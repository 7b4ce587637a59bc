"""Search and attention among some ids, by each way of doing it, against a naive oracle."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fotmem import attention
from fotmem.stores import (
    Bias,
    Hits,
    IdRanges,
    MemoryStore,
    RowsStore,
    exact_search,
    hidden,
    rows_store,
    some_rows,
    store,
)
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact, renumbered
from fotmem.testing.store.naive import DTYPES, draw, naive_attention, naive_topk_attention, quick
from tests.plain_stores import PlainStore

HEADS, TOKENS, DIM, FIRST = 2, 60, 4, 7
bounds = st.tuples(st.integers(0, 75), st.integers(0, 30)).map(lambda some: (some[0], sum(some)))
sets = st.lists(bounds, max_size=5).map(IdRanges)


class OwnSearch(RowsStore):
    """Searches among all keys, with a bias or without, and drops others."""

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        return self.search_rows_biased(queries, top_k, None)

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        return MemoryStore.search_rows_among(self, queries, top_k, rows, bias)


class AllRows(RowsStore):
    """Compares the keys of the set only."""

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        first, keys = self.stored_keys.since(self.forgotten_rows)
        return exact_search(queries, keys, top_k, first_id=first)


WAYS: dict[str, list[tuple[Any, str, int]]] = {
    "as it is": [],
    "searched, in small blocks": [
        (hidden, "PER_HIT", 1),
        (hidden, "SLACK", 1),
        (attention, "WORKSPACE", 100),
        (rows_store, "SEARCHED", 1),
        (some_rows, "ATTENDED", 1),
        (store, "LOOK_UP", 1),
    ],
    "compared, in small blocks": [
        (hidden, "PER_HIT", 10**6),
        (attention, "WORKSPACE", 100),
        (rows_store, "SEARCHED", 10**6),
        (some_rows, "ATTENDED", 10**6),
        (store, "LOOK_UP", 10**6),
    ],
}


def filled(kind: type[MemoryStore], dtype: torch.dtype, forgotten: int) -> MemoryStore:
    made = kind(num_heads=HEADS, head_dim=DIM, dtype=dtype)
    made.start_at(FIRST)
    made.add(*(draw(HEADS, TOKENS, DIM, seed=seed, dtype=dtype) for seed in range(2)))
    made.forget(forgotten)
    return made


def held(made: MemoryStore, among: IdRanges) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ids of a set that the store holds, their keys and values."""
    live = torch.arange(made.first_id, made.next_id)
    ids = live[[any(start <= each < stop for start, stop in among) for each in live.tolist()]]
    wanted = ids.expand(HEADS, 1, -1)
    return ids, made.keys(wanted)[:, 0], made.values(wanted)[:, 0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [PlainStore, OwnSearch, AllRows])
@quick
@given(
    among=sets,
    forgotten=st.integers(0, TOKENS),
    queries=st.integers(1, 9),
    top_k=st.integers(1, 2 * TOKENS),
    dtype=st.sampled_from(DTYPES),
)
def test_results_are_those_of_a_store_of_these_keys(
    kind: type[MemoryStore],
    way: str,
    among: IdRanges,
    forgotten: int,
    queries: int,
    top_k: int,
    dtype: torch.dtype,
) -> None:
    made, asked = filled(kind, dtype, forgotten), draw(HEADS, queries, DIM, seed=2)
    ids, keys, values = held(made, among)
    with pytest.MonkeyPatch.context() as patch:
        for where, name, number in WAYS[way]:
            patch.setattr(where, name, number)
        hits = renumbered(made.search(asked, top_k, among=among), ids)
        part = made.attend(asked, top_k=top_k, scale=0.5, among=among)
        dense = made.attend(asked, top_k=None, scale=0.5, among=among)
    expect_exact(hits, asked, keys, top_k)
    expect_attention(dense, naive_attention(asked, keys, values, 0.5), torch.float32)
    expected = naive_topk_attention(asked, keys, values, 0.5, top_k)
    expect_attention(part, expected, torch.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [PlainStore, OwnSearch, AllRows])
@quick
@given(among=sets, forgotten=st.integers(0, TOKENS), more=st.integers(0, 50))
def test_sums_with_a_bias_are_those_of_these_keys(
    kind: type[MemoryStore], way: str, among: IdRanges, forgotten: int, more: int
) -> None:
    made, asked = filled(kind, torch.float32, forgotten), draw(HEADS, 5, DIM, seed=2)
    ids, keys, values = held(made, among)
    table = draw(FIRST + TOKENS, seed=3)
    options: dict[str, Any] = {"among": among, "bias": table.__getitem__}
    top_k = max(1, -(-len(ids) // 4)) + more  # a store chooses among four times as many
    with pytest.MonkeyPatch.context() as patch:
        for where, name, number in WAYS[way]:
            patch.setattr(where, name, number)
        hits = made.search(asked, top_k, **options)
        parts = [
            made.attend(asked, top_k=wanted, scale=0.5, **options) for wanted in (None, TOKENS)
        ]
    sums = asked.double() @ keys.double().transpose(1, 2) + table[ids].double()
    best = sums.topk(min(top_k, len(ids)), dim=-1).values
    found = hits.scores[..., : best.shape[-1]].double()
    torch.testing.assert_close(found, best, atol=1e-5, rtol=1e-5)
    out = (sums / 2).softmax(-1).nan_to_num(0.0) @ values.double()
    for part in parts:
        expect_attention(part, (out, (sums / 2).logsumexp(-1)), torch.float32)


def test_few_ids_cost_no_search_of_all() -> None:
    made = PlainStore(num_heads=HEADS, head_dim=DIM)
    made.add(*(draw(HEADS, 2000, DIM, seed=seed) for seed in range(2)))
    asked, few = draw(HEADS, 3, DIM, seed=2), IdRanges([(20, 30), (400, 410)])
    made.search(asked, 4, among=few)
    made.attend(asked, top_k=4, scale=0.5, among=few)
    assert "search_rows" not in made.calls
    made.search(asked, 4, among=few.complement(0, 2000))
    made.search(asked, 4, among=IdRanges([(0, 5000)]))
    assert made.calls.count("search_rows") == 2
    assert made.found == [HEADS * 3 * 9, HEADS * 3 * 4]


def test_blocks_without_allowed_keys_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WORKSPACE", HEADS * DIM * 10)
    made = AllRows(num_heads=HEADS, head_dim=DIM)
    keys = draw(HEADS, TOKENS, DIM)
    made.add(keys, keys)
    for sizes, among in (
        ([10, 3], IdRanges([(10, 20), (35, 38)])),
        ([2], IdRanges([(0, 1), (5, 6)])),
    ):
        blocks = list(made._blocks_among(among))
        assert [block.shape[1] for block, _ in blocks] == sizes
        found = torch.cat([block for block, _ in blocks], 1)
        assert torch.equal(found, keys[:, among.at(torch.arange(len(among)))])


def test_a_search_with_a_bias_of_its_own_is_used() -> None:
    made, asked = filled(OwnSearch, torch.float32, 0), draw(HEADS, 3, DIM, seed=2)
    among = IdRanges([(FIRST, FIRST + TOKENS - 1)])
    ids, keys, _ = held(made, among)
    worst = (asked @ keys.transpose(1, 2)).argmin(-1)[0, 0]  # not among the four best of a query
    bias = 100.0 * (torch.arange(FIRST + TOKENS) == ids[worst])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hidden, "PER_HIT", 1)
        hits = made.search(asked, 1, among=among, bias=bias.__getitem__)
    assert (hits.ids == ids[worst]).all()


@pytest.mark.parametrize("among, read", [(IdRanges([(5, 15)]), False), (IdRanges([(5, 50)]), True)])
def test_attention_to_few_ids_reads_no_blocks(
    among: IdRanges, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, reads = filled(PlainStore, torch.float32, 0), []
    every = made.live_blocks

    def live_blocks() -> Iterator[tuple[Tensor, Tensor]]:
        reads.append(len(among))
        return every()

    monkeypatch.setattr(made, "live_blocks", live_blocks)
    made.attend(draw(HEADS, 3, DIM, seed=2), top_k=None, scale=0.5, among=among)
    assert bool(reads) is read
