"""Tests of numbers beyond 4, 16, 24, 32 or 53 bits, as far as they are cheap."""

import pytest
import torch
from torch import Tensor

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import expect, fail, fault
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_sound
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

QUERIES = 2**16 + 1_000
DIFFERENT = 997
"""Number of different queries; the others repeat them, so that the answers are known."""


class ExtremeSizes:
    """Many queries, many heads, large ids."""

    def test_many_queries(self, stores: Stores) -> None:
        """One call answers all of 66,536 queries: more than 16 bits can count."""
        keys, values = pair(120)
        expect_many_answered(stores.filled(keys, values), keys, QUERIES)

    @pytest.mark.parametrize("heads", [16, 17, 32, 33, 64, 65, 130])
    def test_many_heads(self, stores: Stores, heads: int) -> None:
        """Up to 130 heads are stored and searched correctly."""
        keys, values, queries = (draw(heads, 50, 8, seed=seed) for seed in range(3))
        with fault(f"a store of {heads} heads gives wrong answers"):
            store = stores.filled(keys, values, cuts=(7,))
            expect_contents(store, keys, values)
            expect_exact(store.search(queries, 5), queries, keys, 5)

    @pytest.mark.parametrize(
        "bits, kind", [(24, "float32"), (31, "int32"), (32, "uint32"), (53, "float64")]
    )
    def test_large_ids(self, stores: Stores, bits: int, kind: str) -> None:
        """Ids stay correct beyond what float32, int32, uint32 and float64 can count."""
        keys, values = pair(40)
        first = 2**bits - 20
        with fault(f"ids from 2**{bits} on are wrong, as if they were kept in {kind}"):
            store = stores.filled(keys, values, cuts=(9, 20), first_id=first)
            store.forget(4)
            live, begin = (keys[:, 4:], values[:, 4:]), first + 4
            expect_contents(store, *live, first_id=begin)
            queries = draw(HEADS, 5, DIM, seed=2)
            hits = store.search(queries, 8, bias=lambda ids: (ids - first).float())
            expect_sound(
                hits, queries, live[0], 8, first_id=begin, bias=lambda ids: (ids - first).float()
            )


def expect_many_answered(
    store: MemoryStore, keys: Tensor, count: int, *, most: float = 0.0
) -> None:
    """Expect one call with many queries to return the same as calls with few.

    A share of `most` may differ: lists of an index that tie may be rounded.
    """
    __tracebackhide__ = True
    few = draw(keys.shape[0], DIFFERENT, keys.shape[2], seed=2)
    queries = few.repeat(1, -(-count // DIFFERENT), 1)[:, :count]
    known, part = store.search(few, 4), store.attend(few, top_k=4, scale=0.3)
    expect_sound(known, few, keys, 4)
    calls = (
        ("search", lambda: store.search(queries, 4), known),
        ("attend", lambda: store.attend(queries, top_k=4, scale=0.3), part),
    )
    for name, call, expected in calls:
        with fault(f"{name} did not answer all of {count:,} queries of one call"):
            found = call()
            expect(found[0].shape[1], count, "queries that are answered")
            _expect_repeated(found, expected, queries, keys, most)


def _expect_repeated(
    found: tuple[Tensor, Tensor],
    few: tuple[Tensor, Tensor],
    queries: Tensor,
    keys: Tensor,
    most: float,
) -> None:
    __tracebackhide__ = True
    if isinstance(found, Hits):  # ids of nearly the same score may be swapped: compare scores
        ids = found.ids.clamp(0, keys.shape[1] - 1)
        rows = keys[torch.arange(keys.shape[0])[:, None, None], ids]
        pairs = [(found.scores, few[1]), ((rows @ queries[..., None]).squeeze(-1), few[1])]
    else:
        pairs = list(zip(found, few, strict=True))
    which = torch.arange(queries.shape[1]) % DIFFERENT
    for mine, theirs in pairs:
        close = (mine - theirs[:, which]).abs() <= 1e-3
        wrong = ~close.reshape(*mine.shape[:2], -1).all(-1).all(0)
        if int(wrong.sum()) > most * queries.shape[1]:
            first = int(wrong.nonzero()[0])
            fail(
                f"{int(wrong.sum()):,} of them, of which query {first:,} is the first, get another "
                f"answer than among {DIFFERENT}"
            )
