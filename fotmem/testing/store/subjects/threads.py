"""Several threads at a time."""

import functools

import torch
from torch import Tensor

from fotmem.store import Hits
from fotmem.testing.store.expectations import expect_attention, expect_softmax_of, fail
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_sound
from fotmem.testing.store.interleaved import together
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair
from fotmem.testing.store.while_adding import found_while_adding

THREADS, ROUNDS = 4, 12


class Threads:
    """Several threads at a time."""

    def test_searching_together(self, stores: Stores) -> None:
        """Threads that search at the same time get the answers that each would get alone."""
        keys, values = pair(200)
        store = stores.filled(keys, values)
        store.forget(20)

        def search(thread: int) -> None:
            for i in range(ROUNDS):
                count, top_k = 1 + (thread + i) % 3, (3, 8, 190, 1)[(thread + i) % 4]
                queries = draw(HEADS, count, DIM, seed=100 * thread + i, dtype=DTYPES[i % 3])
                found.append((queries, top_k, store.search(queries, top_k)))

        found: list[tuple[Tensor, int, Hits]] = []
        together([functools.partial(search, thread) for thread in range(THREADS)])
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

        together([functools.partial(attend, thread) for thread in range(THREADS)])

    def test_searching_while_adding(self, stores: Stores) -> None:
        """While one thread adds, others find all that was there before, and nothing half done."""
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
                fail(f"a search while adding missed keys that were there: {before} before it")
        expect_contents(store, keys, values)
