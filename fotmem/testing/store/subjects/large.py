"""Tests of 20,000 keys that resemble those of attention: enough for an index."""

import functools
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch

from fotmem.errors import OptionError
from fotmem.stores.hits import Hits
from fotmem.testing.store import growing
from fotmem.testing.store.expectations import (
    expect_attention,
    expect_rows,
    expect_softmax_of,
    expect_state,
    fail,
)
from fotmem.testing.store.growing import DROPPED, GIANTS, TOP_K, Growth
from fotmem.testing.store.hits import expect_same, expect_sound, share_missing
from fotmem.testing.store.naive import DTYPES, naive_attention
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import Stores, built_once, declared

Record = Callable[[str, object], None]


class Large:
    """A large store."""

    min_recall: ClassVar[float] = 0.9
    """Recall of the top 32 on attention-like data that an approximate store must reach."""
    min_mass: ClassVar[float] = 0.95
    """Softmax mass of its top 32, as a share of that of the exact top 32."""

    _built: ClassVar[dict[str, list[Growth]]]

    @pytest.fixture
    def two(self, stores: Stores, request: pytest.FixtureRequest) -> list[Growth]:
        """Two stores with the same keys, built once for all tests of a class."""

        def build() -> list[Growth]:
            both = [growing.grow(stores) for _ in range(2)]
            for grown in both:
                stores.release(grown.store)
            return both

        return built_once(request, "_built", build)

    @classmethod
    def teardown_class(cls) -> None:
        """Close what was built."""
        for grown in [each for pair in vars(cls).get("_built", {}).values() for each in pair]:
            grown.store.close()
        cls._built = {}

    def test_recall(self, two: list[Growth], stores: Stores, record_property: Record) -> None:
        """Recall of the top 32 reaches its bound at every size (exact stores: 1)."""
        bound = 1.0 if stores.capabilities.exact else self.min_recall
        self._expect_bound(growing.recall, two[0], "recall", bound, record_property)

    def test_softmax_mass(self, two: list[Growth], stores: Stores, record_property: Record) -> None:
        """Attention-mass recall of the top 32 keeps its bound at every size (exact stores: 1)."""
        bound, what = 1.0 if stores.capabilities.exact else self.min_mass, "attention-mass recall"
        self._expect_bound(growing.softmax_mass, two[0], what, bound, record_property)

    def test_sound_while_growing(self, two: list[Growth]) -> None:
        """Hits are sound at every size: scores belong to ids, best first, no id twice."""
        keys, _, queries, newest, giants = growing.data()
        one, live = two[0], keys[:, DROPPED:]
        for size, hits in one.growth:
            expect_sound(hits, queries, keys[:, :size], TOP_K)
        expect_sound(one.newest, newest, keys[:, :-GIANTS], 1)
        expect_sound(one.forgotten, queries, live[:, :-GIANTS], TOP_K, first_id=DROPPED)
        expect_sound(one.giants, giants, live, 1, first_id=DROPPED)

    def test_the_newest_keys_are_found(self, two: list[Growth], stores: Stores) -> None:
        """Keys added last are found at once where they are the best."""
        keys, _, _, newest, _ = growing.data()
        found = growing.recall(two[0].newest, newest, keys[:, :-GIANTS])
        self._expect_recall(found, stores, f"of the {newest.shape[1]} keys added last to 20,011")

    def test_forgetting_in_a_large_store(self, two: list[Growth], stores: Stores) -> None:
        """After 9,000 of 20,100 keys are forgotten, recall of the others is as good as before."""
        keys, _, queries, _, _ = growing.data()
        live = keys[:, DROPPED:-GIANTS]
        found = growing.recall(two[0].forgotten, queries, live, first_id=DROPPED)
        self._expect_recall(found, stores, "of the keys left after 9,000 of 20,100 are forgotten")

    def test_norms_never_seen_before(self, two: list[Growth], stores: Stores) -> None:
        """A key with twice the norm of all earlier keys is found."""
        keys, _, _, _, giants = growing.data()
        live = keys[:, DROPPED:]
        found = growing.recall(two[0].giants, giants, live, first_id=DROPPED)
        what = f"of {GIANTS} keys with twice the largest earlier norm"
        self._expect_recall(found, stores, what, most=0.5)  # so few that one more or less counts

    def test_large_lookups(self, two: list[Growth]) -> None:
        """A large store returns the keys and values that were added under the ids of its hits."""
        keys, values, queries, _, _ = growing.data()
        store, live, end = two[0].store, (keys[:, DROPPED:], values[:, DROPPED:]), keys.shape[1]
        expect_state(store, first_id=DROPPED, next_id=end)
        for dtype, top_k in zip(DTYPES, (1, 33, 128), strict=True):
            asked = queries[:, :40].to(dtype)
            hits = store.search(asked, top_k)
            expect_sound(hits, asked, live[0], top_k, first_id=DROPPED)
            expect_rows(store.keys(hits.ids), hits.ids, live[0], "keys", first_id=DROPPED)
            expect_rows(store.values(hits.ids), hits.ids, live[1], "values", first_id=DROPPED)

    def test_large_attention(self, two: list[Growth], stores: Stores) -> None:
        """In a large store, `attend` returns the softmax over hits, or over all keys."""
        keys, values, queries, _, _ = growing.data()
        store, asked, scale = two[0].store, queries[:, :40], 0.02  # all count
        hits = store.search(asked, TOP_K)
        part = store.attend(asked, top_k=TOP_K, scale=scale)
        expect_softmax_of(hits, part, asked, values[:, DROPPED:], scale, DROPPED)
        if not stores.capabilities.estimates_tail:
            part = store.attend(asked, top_k=None, scale=scale)
            expected = naive_attention(asked, keys[:, DROPPED:], values[:, DROPPED:], scale)
            expect_attention(part, expected, torch.float32)

    def test_large_batches(self, two: list[Growth], stores: Stores) -> None:
        """In a large store, a query's hits do not depend on the other queries."""
        keys, _, queries, _, _ = growing.data()
        store, asked = two[0].store, queries[:, :60]
        whole = store.search(asked, TOP_K)
        singly = [store.search(each, TOP_K) for each in asked.split(1, dim=1)]
        alone = Hits(*(torch.cat([part[i] for part in singly], 1) for i in range(2)))
        share = share_missing(whole, alone, asked, keys)
        if share > (0 if stores.capabilities.exact else 0.01):  # a tie of two lists may be rounded
            fail(f"{share:.1%} of the hits of 60 queries differ from those of each query alone")

    def test_tuning(self, two: list[Growth], stores: Stores) -> None:
        """`tune` changes later searches only, and larger values of the grid find more."""
        keys, _, queries, _, _ = growing.data()
        original, live = two[0].store, keys[:, DROPPED:]
        spec = declared(stores.make)
        grid = {} if spec is None else spec.grid
        before = original.search(queries, TOP_K)
        store, other = original.copy(), original.copy()
        unknown = functools.partial(store.tune, no_such_option=1)
        expect_refusal(OptionError, unknown, "an option that does not exist")
        for name in sorted(store.search_options & grid.keys()):
            found = []
            for value in grid[name]:
                store.tune(**{name: value})
                hits = store.search(queries, TOP_K)
                expect_sound(hits, queries, live, TOP_K, first_id=DROPPED)
                found.append(growing.softmax_mass(hits, queries, live, first_id=DROPPED))
            if found[-1] < found[0] - 0.01:
                fail(
                    f"with {name}={grid[name][-1]}, {found[-1]:.3f} of the mass is found, with "
                    f"{grid[name][0]} {found[0]:.3f}"
                )
            other.tune(**{name: grid[name][-1]})
            again = other.search(queries, TOP_K)
            expect_same(
                again, hits, queries, keys, "a store tuned in one step and one tuned in several"
            )
        expect_same(
            original.search(queries, TOP_K), before, queries, keys, "after a copy was tuned"
        )
        for each in (store, other):
            each.close()

    def test_building_large_twice(self, two: list[Growth]) -> None:
        """Two large stores with the same keys give the same answers at every size."""
        keys, _, queries, newest, _ = growing.data()
        one, other = two
        what = "two stores with the same keys"
        for (size, mine), (_, theirs) in zip(one.growth, other.growth, strict=True):
            expect_same(mine, theirs, queries, keys[:, :size], f"{what} {size:,} keys")
        expect_same(one.newest, other.newest, newest, keys, what)
        expect_same(one.forgotten, other.forgotten, queries, keys, f"{what}, and forgot the same")

    def _expect_recall(self, found: float, stores: Stores, what: str, *, most: float = 1.0) -> None:
        __tracebackhide__ = True
        bound = 1.0 if stores.capabilities.exact else min(self.min_recall, most)
        if found < bound:
            fail(f"{what}, a search found {found:.3f}, expected at least {bound}")

    @staticmethod
    def _expect_bound(
        measure: Callable[..., float], grown: Growth, name: str, bound: float, record: Record
    ) -> None:
        __tracebackhide__ = True
        keys, _, queries, _, _ = growing.data()
        figures = {size: measure(hits, queries, keys[:, :size]) for size, hits in grown.growth}
        least = min(figures.values())
        record(name, {"bound": bound, "measured": least, "by_size": figures})
        shown = ", ".join(f"{figure:.4f} at {size:,}" for size, figure in figures.items())
        print(f"{name} of the top {TOP_K}: {shown} keys; bound {bound:.4g}")
        if least < bound - 1e-6:
            fail(f"{name} of the top {TOP_K} must be at least {bound:.4g}, got {shown} keys")
