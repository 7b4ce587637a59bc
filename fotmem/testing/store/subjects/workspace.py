"""Memory for temporaries, and memory that is held."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.attention import WORKSPACE
from fotmem.testing.store.allocations import Allocations
from fotmem.testing.store.expectations import fail
from fotmem.testing.store.footprint import held_bytes, peak_bytes
from fotmem.testing.store.hits import expect_contents
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import HEADS, Stores

MOST = 8 * 4 * WORKSPACE
"""Bytes by which temporaries may grow: eight tensors of float32 that fill the workspace."""


class Workspace:
    """Memory."""

    def test_temporaries_of_search(self, stores: Stores) -> None:
        """Searching many keys with many queries allocates no matrix of all scores."""
        keys = draw(1, 16_384, 16)
        store = stores.filled(keys, keys)
        self._expect_bounded(
            functools.partial(store.search, top_k=8),
            "search",
            per_query=4 * 16_384,
        )

    @pytest.mark.parametrize("top_k", [None, 256])
    def test_temporaries_of_attend(self, stores: Stores, top_k: int | None) -> None:
        """Attending with many queries allocates neither all scores nor all values of the hits."""
        tokens, dim = (16_384, 8) if top_k is None else (512, 64)
        keys = draw(1, tokens, dim)
        store = stores.filled(keys, keys)
        self._expect_bounded(
            functools.partial(store.attend, top_k=top_k, scale=0.1),
            f"attend with top_k={top_k}",
            per_query=4 * (tokens if top_k is None else top_k * dim),
        )

    @staticmethod
    def _expect_bounded(call: Callable[..., Any], what: str, per_query: int) -> None:
        """Compare few queries and many; `per_query` are the bytes that must not grow with them."""
        __tracebackhide__ = True
        few, many = 256, 3_072
        dim = call.func.__self__.head_dim  # type: ignore[attr-defined]
        call(draw(1, few, dim, seed=1))  # what is made once is no matter
        peaks = []
        for count in (few, many):
            results: list[Any] = []
            queries = draw(1, count, dim, seed=1)
            peak = peak_bytes(functools.partial(_keep, call, queries, results))
            own = sum(each.numel() * each.element_size() for each in results.pop())
            peaks.append(peak - 4 * own)
        grown, forbidden = peaks[1] - peaks[0], per_query * (many - few)
        if grown > MOST:
            fail(
                f"temporaries of {what} grew by {grown / 2**20:.0f} MiB as queries grew from {few} "
                f"to {many:,}, expected at most {MOST / 2**20:.0f} MiB (a tensor for all of them "
                f"would take {forbidden / 2**20:.0f} MiB more): work in blocks of fotmem.WORKSPACE "
                f"elements"
            )

    def test_adding_is_amortised(self, stores: Stores) -> None:
        """Adding a few keys does not copy all that was added before."""
        few, many = draw(1, 10, 64), draw(1, 6_000, 64)
        store, made = stores.empty(num_heads=1, head_dim=64), []
        for _ in range(2):
            for piece in many.split(2_000, dim=1):
                store.add(piece, piece)
            each = [self._made_by(functools.partial(store.add, few, few)) for _ in range(31)]
            made.append(sorted(each)[15])  # the median: building an index anew is no matter
        if made[1] - made[0] > many.numel() * many.element_size() // 2:
            fail(
                f"adding 10 keys made tensors of {made[0] / 2**20:.1f} MiB beside 6,000 keys and "
                f"of {made[1] / 2**20:.1f} MiB beside 12,000: add copies all earlier keys; grow "
                f"by doubling, or in blocks"
            )

    @staticmethod
    def _made_by(call: Callable[[], object]) -> int:
        with Allocations() as made:
            call()
        return int(made.bytes)

    def test_searching_keeps_nothing(self, stores: Stores) -> None:
        """Whoever asks the same again and again takes no more memory than who asks twice."""
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
                f"{held[1]:,} after 40 more with the same queries: it keeps something of each"
            )

    def test_forgetting_frees_memory(self, stores: Stores) -> None:
        """A store that declares `forgets` holds little more than what is not forgotten."""
        if not stores.capabilities.forgets:
            pytest.skip("the store declares that it only hides what is forgotten")
        piece, live = draw(HEADS, 500, 16), 2 * HEADS * 1_000 * 16 * 4
        store = stores.empty()
        for _ in range(2):
            store.add(piece, piece)
        if held_bytes(store) < live // 2:
            pytest.skip("what the store holds cannot be seen from Python")
        for _ in range(38):
            store.add(piece, piece)
            store.forget(500)
        store.flush()
        held = held_bytes(store)
        if held > 8 * live:
            fail(
                f"after adding 20,000 keys and forgetting all but the last 1,000, the store "
                f"holds {held:,} bytes of tensors and arrays, expected at most {8 * live:,}: "
                f"free memory in _forget, or declare forgets=False"
            )
        both = torch.cat([piece, piece], 1)
        expect_contents(store, both, both, first_id=19_000)


def _keep(call: Callable[..., Any], queries: Tensor, results: list[Any]) -> None:
    results.append(call(queries))
