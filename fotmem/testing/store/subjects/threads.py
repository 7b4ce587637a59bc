"""Several threads at the same time."""

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from fotmem.errors import FotmemError
from fotmem.stores.hits import Hits
from fotmem.testing.store.expectations import (
    expect_attention,
    expect_softmax_of,
    expect_state,
    fail,
    fault,
)
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_sound
from fotmem.testing.store.interleaved import together
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.side_by_side import kept_waiting
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair
from fotmem.testing.store.while_adding import found_while_adding

THREADS, ROUNDS = 4, 12
PIECE, TRIALS = 5, 6
"""Keys that a thread adds at a time, and times that two threads begin to add."""


class Threads:
    """Several threads at the same time."""

    def test_searching_together(self, stores: Stores) -> None:
        """Threads that search at the same time get the same answers as alone."""
        keys, values = pair(200)
        store = stores.filled(keys, values)
        store.forget(20)

        def search(thread: int) -> None:
            for i in range(ROUNDS):
                count, top_k = 1 + (thread + i) % 3, (3, 8, 190, 1)[(thread + i) % 4]
                queries = draw(HEADS, count, DIM, seed=100 * thread + i, dtype=DTYPES[i % 3])
                found.append((queries, top_k, store.search(queries, top_k)))

        found: list[tuple[Tensor, int, Hits]] = []
        for _ in range(2):  # threads meet best when they begin
            together(store, [functools.partial(search, thread) for thread in range(THREADS)])
        for queries, top_k, hits in found:
            expect_exact(hits, queries, keys[:, 20:], top_k, first_id=20)

    def test_attending_together(self, stores: Stores) -> None:
        """Threads that attend and look up at the same time do not disturb each other."""
        keys, values = pair(200)
        store = stores.filled(keys, values)

        def attend(thread: int) -> None:
            for i in range(ROUNDS):
                queries = draw(HEADS, 1 + (thread + i) % 2, DIM, seed=100 * thread + i)
                hits = store.search(queries, 5 + thread)
                part = store.attend(queries, top_k=5 + thread, scale=0.3)
                expect_softmax_of(hits, part, queries, values, 0.3, 0)
                if not stores.capabilities.estimates_tail:
                    part = store.attend(queries, top_k=None, scale=0.3 + thread)
                    expected = naive_attention(queries, keys, values, 0.3 + thread)
                    expect_attention(part, expected, torch.float32)
                heads = torch.arange(HEADS)[:, None, None]
                for found, stored in (
                    (store.keys(hits.ids), keys),
                    (store.values(hits.ids), values),
                ):
                    if not torch.equal(found, stored[heads, hits.ids]):
                        fail("a look-up returned other rows while other threads looked up theirs")

        for _ in range(2):
            together(store, [functools.partial(attend, thread) for thread in range(THREADS)])

    def test_no_search_waits_for_another(self, stores: Stores) -> None:
        """Two threads can search or attend at the same time: neither waits for the other."""
        keys, values = draw(HEADS, 6_000, DIM), draw(HEADS, 6_000, DIM, seed=1)
        store, queries = stores.filled(keys, values), draw(HEADS, 24, DIM, seed=2)
        calls: dict[str, Callable[[], object]] = {
            "search": functools.partial(store.search, queries, 16),
            "attend": functools.partial(store.attend, queries, top_k=16, scale=0.3),
            "attend with top_k=None": functools.partial(
                store.attend, queries, top_k=None, scale=0.3
            ),
        }
        for name, call in calls.items():
            line = kept_waiting(store, call, call)
            if line is not None:
                fail(
                    f"{name} kept another thread's {name} waiting until it ended: a lock is held "
                    f"where it spends its time ({line}), so that two threads are no faster than "
                    "one; keep the data of a call in local variables"
                )

    def test_searching_while_adding(self, stores: Stores) -> None:
        """While one thread adds, others find all earlier keys, and no half-added ones."""
        keys, values = pair(160)
        keys = (keys + 5) * torch.linspace(4, 1, 160)[:, None]
        queries = draw(HEADS, 2, DIM, seed=2) - 5  # all score below 0, the newest best
        store = stores.filled(keys[:, :30], values[:, :30])
        pieces = zip(keys[:, 30:].split(10, 1), values[:, 30:].split(10, 1), strict=True)
        for before, hits in found_while_adding(store, list(pieces), queries, 8):
            expect_sound(hits, queries, keys, 8)
            products = queries.double() @ keys[:, :before].double().transpose(1, 2)
            least = products.topk(8, dim=-1).values
            if (hits.scores.double() < least - 0.01).any():
                fail(f"a search while adding missed some of the {before} keys before it")
        expect_contents(store, keys, values)

    def test_adding_together(self, stores: Stores) -> None:
        """If two threads add at once, one may be refused; no keys are lost or mixed."""
        store = stores.filled(*pair(10))
        added: list[float] = []
        unused = itertools.count(1.0)

        def add() -> None:
            for _ in range(ROUNDS):
                number = next(unused)
                rows = torch.full((HEADS, PIECE, DIM), number)
                try:
                    store.add(rows, rows)
                except FotmemError:
                    continue
                added.append(number)

        with fault("two threads that add at once disturb each other: refuse one of them"):
            for _ in range(TRIALS):  # threads meet best when they begin
                together(store, [add, add])
            expect_state(store, first_id=0, next_id=10 + PIECE * len(added))
            ids = torch.arange(10, store.next_id).expand(HEADS, 1, -1)
            for name, rows in (("keys", store.keys(ids)), ("values", store.values(ids))):
                pieces = rows.unflatten(2, (-1, PIECE)).flatten(3)  # [H, 1, pieces, PIECE * D]
                numbers = pieces[..., 0]
                whole = bool((pieces == numbers[..., None]).all() & (numbers == numbers[:1]).all())
                if not whole or sorted(numbers[0, 0].tolist()) != sorted(added):
                    fail(f"{name} are lost or mixed")
