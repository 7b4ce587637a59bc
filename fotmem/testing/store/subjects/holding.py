"""Memory that a store keeps."""

import functools
import itertools

import pytest
import torch

from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import fail
from fotmem.testing.store.footprint import held_bytes, kept_bytes
from fotmem.testing.store.hits import expect_contents
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import DIM, HEADS, Stores

SMALL_QUESTIONS, LARGE_QUESTIONS = (1_000, DIM, 4, 300, 3), (8, 4_096, 64, 16, 2)
"""Keys, dimensions, queries of a call, calls of a round, and rounds: after 1,200 small calls
and 96 MiB of large ones, a bounded cache is full."""
LEAST_KEPT = 16
"""Bytes per query that a store keeps, at least, if it keeps queries or answers."""
SHARE = 0.85
"""Largest share of a float32 store's memory that a bfloat16 store may take."""


class Holding:
    """Memory that a store keeps."""

    def test_searching_keeps_nothing(self, stores: Stores) -> None:
        """Repeating the same queries takes no more memory."""
        keys, queries = draw(HEADS, 1_000, 16), draw(HEADS, 500, 16, seed=1)
        store, held = stores.filled(keys, keys), []
        for times in (2, 40):
            for _ in range(times):
                store.search(queries.clone(), 4)
                store.attend(queries.clone(), top_k=4, scale=0.1)
            held.append(held_bytes(store))
        if held[1] - held[0] > queries.nbytes:
            fail(
                f"the store held {held[0]:,} bytes of tensors and arrays after two searches, and "
                f"{held[1]:,} after 40 more with the same queries: it keeps a part of each"
            )

    def test_different_questions_are_not_kept(self, stores: Stores) -> None:
        """Memory does not grow with the number of different queries: a cache has a bound."""
        seeds, kept = itertools.count(), 0
        for tokens, dim, queries, rounds, times in (SMALL_QUESTIONS, LARGE_QUESTIONS):
            keys = draw(HEADS, tokens, dim)
            store = stores.filled(keys, keys)

            def ask(
                store: MemoryStore = store,
                shape: tuple[int, int, int] = (HEADS, queries, dim),
                rounds: int = rounds,
            ) -> None:
                for _ in range(rounds):
                    asked = draw(*shape, seed=next(seeds))
                    ids = store.search(asked, 4).ids
                    store.attend(asked, top_k=4, scale=0.1)
                    store.values(ids)

            ask()  # what is made once is no matter
            for _ in range(times):
                grown = kept_bytes(ask, beside=store)
                if grown < rounds * queries * HEADS * LEAST_KEPT:
                    return
                kept += grown
        fail(
            f"of {next(seeds):,} different calls and their results the store keeps {kept:,} "
            "bytes, and more with each call: a cache must have a bound"
        )

    def test_half_precision_takes_half(self, stores: Stores) -> None:
        """A bfloat16 store takes about half the memory of a float32 store."""
        given = draw(HEADS, 4_500, 32)

        def held(dtype: torch.dtype) -> int:
            rows = given.to(dtype)
            return kept_bytes(functools.partial(stores.filled, rows, rows, cuts=(2_000, 4_000)))

        wide = held(torch.float32)
        if wide < given.nbytes:
            pytest.skip("Python cannot see what the store holds")
        half = held(torch.bfloat16)
        if half > SHARE * wide:
            fail(
                f"a bfloat16 store holds {half:,} bytes, a float32 store of as many keys {wide:,}: "
                "it keeps keys and values in float32; keep them in the store's dtype"
            )

    def test_forgetting_frees_memory(self, stores: Stores) -> None:
        """A store that declares `forgets` frees the memory of forgotten keys."""
        if not stores.capabilities.forgets:
            pytest.skip("the store does not declare `forgets`: it only hides forgotten keys")
        piece, live = draw(HEADS, 500, 16), 2 * HEADS * 1_000 * 16 * 4
        store = stores.empty()
        for _ in range(2):
            store.add(piece, piece)
        if held_bytes(store) < live // 2:
            pytest.skip("Python cannot see what the store holds")
        for _ in range(38):
            store.add(piece, piece)
            store.forget(500)
        store.flush()
        held = held_bytes(store)
        if held > 8 * live:
            fail(
                f"after adding 20,000 keys and forgetting all but the last 1,000, the store "
                f"holds {held:,} bytes of tensors and arrays, expected at most {8 * live:,}: "
                f"free memory in forget_rows, or declare forgets=False"
            )
        both = torch.cat([piece, piece], 1)
        expect_contents(store, both, both, first_id=19_000)
