"""Tests of 66,000 keys and more, of few dimensions: cheap, and more than 16 bits can count."""

import functools
from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.expectations import expect_rows, expect_state, fail
from fotmem.testing.store.footprint import written_bytes
from fotmem.testing.store.growing import recall
from fotmem.testing.store.hits import expect_sound
from fotmem.testing.store.stores import Stores, built_once

DIM, QUERIES, TOP_K, PIECE = 8, 32, 32, 500
SIZES = (8_000, 16_500, 25_500, 33_000, 50_000, 66_000)
"""Numbers of keys at which the store is searched."""
EXACT_SIZES = (*SIZES, 100_000, 132_000)
"""The same for exact stores, which have no index."""
LARGE_SIZES, LARGE_EXACT_SIZES = (*EXACT_SIZES, 270_000), (*EXACT_SIZES, 270_000, 1_100_000)
"""The same if `large` is set."""
USUAL, MOST_GROWTH = 16_500, 3.0
"""Beyond this number of keys, the bytes written per added key may grow by this factor."""


class HugeStore(NamedTuple):
    """A store, its contents, its answers at each size, and the bytes written up to that size."""

    store: MemoryStore
    keys: Tensor
    values: Tensor
    queries: Tensor
    growth: list[tuple[int, Hits]]
    written: list[int]


class Huge:
    """A huge store."""

    large: ClassVar[bool] = False
    """Whether to run sizes that take minutes and many gigabytes of memory."""
    min_recall: ClassVar[float]
    _huge: ClassVar[dict[str, HugeStore]]

    @pytest.fixture
    def huge(self, stores: Stores, request: pytest.FixtureRequest) -> HugeStore:
        """A store of one head, filled piece by piece, built once for all tests of a class."""

        def build() -> HugeStore:
            exact = stores.capabilities.exact
            sizes: tuple[int, ...] = EXACT_SIZES if exact else SIZES
            if self.large:
                sizes = LARGE_EXACT_SIZES if exact else LARGE_SIZES
            filled = _fill(stores, sizes)
            stores.release(filled.store)
            return filled

        return built_once(request, "_huge", build)

    @classmethod
    def teardown_class(cls) -> None:
        """Close what was built."""
        for filled in vars(cls).get("_huge", {}).values():
            filled.store.close()
        cls._huge = {}
        super().teardown_class()  # type: ignore[misc]

    def test_recall_of_a_huge_store(self, huge: HugeStore, stores: Stores) -> None:
        """Recall reaches its bound with up to 66,000 keys (exact stores: 132,000)."""
        bound, right = 1.0 if stores.capabilities.exact else self.min_recall, 0
        for size, hits in huge.growth:
            keys = huge.keys[:, :size]
            expect_sound(hits, huge.queries, keys, TOP_K)
            found = recall(hits, huge.queries, keys)
            if found < bound - 1e-6:
                fail(
                    f"recall of the top {TOP_K} must be at least {bound:.4g} at every size, got "
                    f"{found:.4f} with {size:,} keys"
                    + (
                        f": the store is correct up to {right:,} keys only, or a few more"
                        if right
                        else ""
                    )
                )
            right = size

    def test_look_ups_of_a_huge_store(self, huge: HugeStore) -> None:
        """Look-ups are correct among 66,000 keys and values (exact stores: 132,000)."""
        end = huge.keys.shape[1]
        expect_state(huge.store, first_id=0, next_id=end)
        some = torch.arange(0, end, 61)
        for ids in (torch.tensor([[[0, 2**15, 2**16 - 1, 2**16, end - 1]]]), some[None, None]):
            expect_rows(huge.store.keys(ids), ids, huge.keys, "keys")
            expect_rows(huge.store.values(ids), ids, huge.values, "values")

    def test_adding_stays_as_quick(self, huge: HugeStore) -> None:
        """Adding a key to 66,000 (exact stores: 132,000) writes no more than to 16,500."""
        sizes = [size for size, _ in huge.growth]
        each = [written / size for size, written in zip(sizes, huge.written, strict=True)]
        first = sizes.index(USUAL)
        for size, now in zip(sizes[first:], each[first:], strict=True):
            if now > MOST_GROWTH * each[first]:
                fail(
                    f"adding {USUAL:,} keys wrote {each[first]:,.0f} bytes a key, and adding "
                    f"{size:,} wrote {now:,.0f} a key: add copies earlier keys each time, in "
                    f"all as many as the square of their number; grow by doubling, or in blocks"
                )


def _fill(stores: Stores, sizes: tuple[int, ...]) -> HugeStore:
    keys, values, queries = attention_data(1, sizes[-1], QUERIES, DIM)
    store = stores.empty(num_heads=1, head_dim=DIM)
    growth: list[tuple[int, Hits]] = []
    total, written = 0, []
    for size in sizes:
        for begin in range(store.next_id, size, PIECE):
            piece = slice(begin, min(begin + PIECE, size))
            total += written_bytes(functools.partial(store.add, keys[:, piece], values[:, piece]))
        store.flush()  # waits for an index that is built in the background
        growth.append((size, store.search(queries, TOP_K)))
        written.append(total)
    return HugeStore(store, keys, values, queries, growth, written)
