"""A state machine that calls a store in any order, and compares it with a plain list."""

import time
from pathlib import Path
from typing import ClassVar

import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from torch import Tensor

from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import (
    expect_attention,
    expect_rows,
    expect_softmax_of,
    expect_state,
)
from fotmem.testing.store.hits import expect_exact, renumbered
from fotmem.testing.store.naive import DTYPES, LAYOUTS, draw, laid_out, naive_attention
from fotmem.testing.store.stores import Stores

HEADS, DIM = 2, 4
FIRST = 3
seeds = st.integers(0, 2**16)
dtypes = st.sampled_from(DTYPES)
which = st.integers(0, 2**8)
ranges = st.tuples(st.integers(0, 60), st.integers(0, 30)).map(lambda some: (some[0], sum(some)))
sets = st.none() | st.lists(ranges, max_size=4).map(IdRanges)


class ExpectedContents:
    """All keys and values ever added, and the number of forgotten ones."""

    def __init__(self, keys: Tensor, values: Tensor, forgotten: int = 0) -> None:
        self.keys, self.values, self.forgotten = keys, values, forgotten

    @property
    def first_id(self) -> int:
        """Id of the first live key."""
        return FIRST + self.forgotten

    def live(self) -> tuple[Tensor, Tensor]:
        """Keys and values that are not forgotten."""
        return self.keys[:, self.forgotten :], self.values[:, self.forgotten :]

    def ids(self, among: IdRanges | None) -> Tensor:
        """Ids of live keys, of those that are among some, ascending."""
        ids = torch.arange(self.first_id, FIRST + self.keys.shape[1])
        if among is None:
            return ids
        return ids[[any(start <= each < stop for start, stop in among) for each in ids.tolist()]]

    def twin(self) -> "ExpectedContents":
        """Copy it."""
        return ExpectedContents(self.keys, self.values, self.forgotten)


class Calls(RuleBasedStateMachine):
    """A store, up to two copies, and what is expected of each."""

    stores: ClassVar[Stores]
    dtype: ClassVar[torch.dtype]
    root: ClassVar[Path | None]
    """Parent of the stores' directories; None for stores in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = None if self.root is None else self.root / str(time.monotonic_ns())
        none = torch.zeros(HEADS, 0, DIM, dtype=self.dtype)
        store = self._open()
        store.start_at(FIRST)
        self.pairs = [(store, ExpectedContents(none, none))]

    def _open(self) -> MemoryStore:
        return self.stores.empty(
            num_heads=HEADS, head_dim=DIM, dtype=self.dtype, directory=self.directory
        )

    def teardown(self) -> None:
        """Close all stores."""
        for store, _ in self.pairs:
            self.stores.close(store)

    def pick(self, index: int) -> tuple[MemoryStore, ExpectedContents]:
        """Choose a store."""
        return self.pairs[index % len(self.pairs)]

    def compare_ids(self) -> None:
        """Compare ids and lengths of all stores."""
        for store, expected in self.pairs:
            expect_state(store, first_id=expected.first_id, next_id=FIRST + expected.keys.shape[1])

    @rule(
        index=which,
        tokens=st.integers(0, 9) | st.just(40),
        seed=seeds,
        dtype=dtypes,
        layout=st.sampled_from(LAYOUTS[:4]),
    )
    def add(self, index: int, tokens: int, seed: int, dtype: torch.dtype, layout: str) -> None:
        """Add some keys."""
        store, expected = self.pick(index)
        keys, values = (
            laid_out(draw(HEADS, tokens, DIM, seed=seed + i, dtype=dtype), layout) for i in range(2)
        )
        expected.keys = torch.cat([expected.keys, keys.to(self.dtype)], 1)
        expected.values = torch.cat([expected.values, values.to(self.dtype)], 1)
        store.add(keys, values)
        self.compare_ids()

    @rule(index=which, count=st.integers(0, 20))
    def forget(self, index: int, count: int) -> None:
        """Forget some of the oldest keys, or all."""
        store, expected = self.pick(index)
        store.forget(count)
        expected.forgotten = min(expected.forgotten + count, expected.keys.shape[1])
        self.compare_ids()

    @rule(index=which)
    def flush(self, index: int) -> None:
        """Flush."""
        self.pick(index)[0].flush()
        self.compare_ids()

    @rule(index=which)
    def copy(self, index: int) -> None:
        """Copy a store; the copy takes the place of the oldest one."""
        store, expected = self.pick(index)
        pairs = [*self.pairs, (store.copy(), expected.twin())]
        for dropped, _ in pairs[1:-2]:
            self.stores.close(dropped)
        self.pairs = [pairs[0], *pairs[1:][-2:]]
        self.compare_ids()

    @precondition(lambda self: self.directory is not None and self.pairs[0][1].keys.shape[1])
    @rule()
    def reopen(self) -> None:
        """Flush, close, and open the directory again."""
        store, expected = self.pairs[0]
        store.flush()
        self.stores.close(store)
        self.pairs[0] = self._open(), expected
        self.compare_ids()

    @rule(
        index=which,
        queries=st.integers(0, 4),
        top_k=st.integers(1, 30),
        seed=seeds,
        dtype=dtypes,
        among=sets,
    )
    def search(
        self,
        index: int,
        queries: int,
        top_k: int,
        seed: int,
        dtype: torch.dtype,
        among: IdRanges | None,
    ) -> None:
        """Search, among some ids or all, and look up what was found."""
        store, expected = self.pick(index)
        keys, values = expected.live()
        asked = draw(HEADS, queries, DIM, seed=seed, dtype=dtype)
        hits = store.search(asked, top_k, among=among)
        first = expected.first_id
        expect_rows(store.keys(hits.ids), hits.ids, keys, "keys", first_id=first)
        expect_rows(store.values(hits.ids), hits.ids, values, "values", first_id=first)
        ids = expected.ids(among)
        expect_exact(renumbered(hits, ids), asked, keys[:, ids - first], top_k)

    @rule(
        index=which,
        queries=st.integers(0, 4),
        top_k=st.none() | st.integers(1, 30),
        seed=seeds,
        dtype=dtypes,
        among=sets,
    )
    def attend(
        self,
        index: int,
        queries: int,
        top_k: int | None,
        seed: int,
        dtype: torch.dtype,
        among: IdRanges | None,
    ) -> None:
        """Attend to the best, or to all, among some ids or all."""
        store, expected = self.pick(index)
        ids = expected.ids(among)
        keys, values = (rows[:, ids - expected.first_id] for rows in expected.live())
        asked = draw(HEADS, queries, DIM, seed=seed, dtype=dtype)
        part = store.attend(asked, top_k=top_k, scale=0.5, among=among)
        if top_k is None and self.stores.capabilities.estimates_tail:
            return
        if top_k is None or not keys.shape[1]:
            expect_attention(part, naive_attention(asked, keys, values, 0.5), dtype)
            return
        hits = renumbered(store.search(asked, top_k, among=among), ids)
        expect_softmax_of(hits, part, asked, values, 0.5, 0)
