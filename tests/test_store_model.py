"""Any order of calls: stores against a list of keys and values."""

from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor

from fotmem import MemoryStore, create_store
from tests.naive import (
    DTYPES,
    LAYOUTS,
    assert_attention,
    assert_exact_hits,
    draw,
    laid_out,
    naive_attention,
    naive_topk_attention,
    quick,
)
from tests.plain_stores import ForgettingStore, PlainStore

HEADS, DIM = 2, 4
seeds = st.integers(0, 2**16)
dtypes = st.sampled_from(DTYPES)
which = st.integers(0, 2**8)


class Expected:
    """All keys and values ever added, and how many of them are forgotten."""

    def __init__(self, first_id: int, keys: Tensor, values: Tensor, forgotten: int = 0) -> None:
        self.first_id, self.keys, self.values, self.forgotten = first_id, keys, values, forgotten

    def live(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, self.forgotten :], self.values[:, self.forgotten :]

    def twin(self) -> "Expected":
        return Expected(self.first_id, self.keys, self.values, self.forgotten)


class Calls(RuleBasedStateMachine):
    dtype = torch.float32

    def make(self) -> MemoryStore:
        return create_store("exact", num_heads=HEADS, head_dim=DIM, dtype=self.dtype)

    def __init__(self) -> None:
        super().__init__()
        none = torch.zeros(HEADS, 0, DIM, dtype=self.dtype)
        store = self.make()
        store.start_at(3)
        self.pairs = [(store, Expected(3, none, none))]

    def pick(self, index: int) -> tuple[MemoryStore, Expected]:
        return self.pairs[index % len(self.pairs)]

    @rule(
        index=which,
        tokens=st.integers(0, 9),
        seed=seeds,
        dtype=dtypes,
        layout=st.sampled_from(LAYOUTS[:4]),
    )
    def add(self, index: int, tokens: int, seed: int, dtype: torch.dtype, layout: str) -> None:
        store, expected = self.pick(index)
        keys, values = (
            laid_out(draw(HEADS, tokens, DIM, seed=seed + i, dtype=dtype), layout) for i in range(2)
        )
        expected.keys = torch.cat([expected.keys, keys.to(self.dtype)], 1)
        expected.values = torch.cat([expected.values, values.to(self.dtype)], 1)
        store.add(keys, values)
        keys.fill_(torch.nan)
        values.fill_(torch.nan)

    @rule(index=which, count=st.integers(0, 20))
    def forget(self, index: int, count: int) -> None:
        store, expected = self.pick(index)
        store.forget(count)
        expected.forgotten = min(expected.forgotten + count, expected.keys.shape[1])

    @rule(index=which)
    def copy(self, index: int) -> None:
        store, expected = self.pick(index)
        self.pairs = [*self.pairs[-2:], (store.copy(), expected.twin())]

    @rule(
        index=which, queries=st.integers(0, 4), top_k=st.integers(1, 30), seed=seeds, dtype=dtypes
    )
    def search(self, index: int, queries: int, top_k: int, seed: int, dtype: torch.dtype) -> None:
        store, expected = self.pick(index)
        q = draw(HEADS, queries, DIM, seed=seed, dtype=dtype)
        hits = store.search(q, top_k)
        assert_exact_hits(hits, q, expected.live()[0], top_k, store.first_id)
        for found, rows in ((store.keys(hits.ids), 0), (store.values(hits.ids), 1)):
            for place in (hits.ids >= 0).nonzero().tolist():
                token = int(hits.ids[*place]) - store.first_id
                assert torch.equal(found[*place], expected.live()[rows][place[0], token])
            assert (found[hits.ids < 0] == 0).all()

    @rule(
        index=which,
        queries=st.integers(0, 4),
        top_k=st.none() | st.integers(1, 30),
        seed=seeds,
        dtype=dtypes,
    )
    def attend(
        self, index: int, queries: int, top_k: int | None, seed: int, dtype: torch.dtype
    ) -> None:
        store, expected = self.pick(index)
        q = draw(HEADS, queries, DIM, seed=seed, dtype=dtype)
        part = store.attend(q, top_k=top_k, scale=0.5)
        live = (q, *expected.live(), 0.5)
        oracle = naive_topk_attention(*live, top_k) if top_k else naive_attention(*live)
        assert_attention(part, oracle, dtype)

    @invariant()
    def ids_are_those_of_the_model(self) -> None:
        for store, expected in self.pairs:
            assert store.first_id == expected.first_id + expected.forgotten
            assert store.next_id == expected.first_id + expected.keys.shape[1]
            assert len(store) == expected.live()[0].shape[1]


class BfloatCalls(Calls):
    dtype = torch.bfloat16


class PlainCalls(Calls):
    def make(self) -> MemoryStore:
        return PlainStore(num_heads=HEADS, head_dim=DIM)


class ForgettingCalls(Calls):
    def make(self) -> MemoryStore:
        return ForgettingStore(num_heads=HEADS, head_dim=DIM)


@pytest.mark.parametrize("machine", [Calls, BfloatCalls, PlainCalls, ForgettingCalls])
def test_any_order_of_calls_equals_the_model(machine: Any) -> None:
    run_state_machine_as_test(
        machine, settings=settings(quick, max_examples=25, stateful_step_count=25)
    )
