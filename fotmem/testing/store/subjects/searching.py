"""What `search` returns."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import expect, expect_rows
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_sound
from fotmem.testing.store.naive import DTYPES, LAYOUTS, draw, laid_out, quick
from fotmem.testing.store.stores import DIM, HEADS, Stores


class Searching:
    """Searching."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_shapes_and_dtypes(self, stores: Stores, dtype: torch.dtype) -> None:
        """Ids are int64 and scores float32, both [H, Q, K], for any dtype and number of queries."""
        keys = draw(HEADS, 40, DIM, dtype=torch.float32)
        store = stores.filled(keys, keys)
        for queries, top_k in itertools.product((0, 1, 5), (1, 7, 40, 45)):
            asked = draw(HEADS, queries, DIM, seed=1, dtype=dtype)
            hits = store.search(asked, top_k)
            expect_exact(hits, asked, keys, top_k)

    def test_equal_to_brute_force(self, stores: Stores) -> None:
        """A small store finds the largest inner products, for any shapes, dtypes and norms."""
        layouts, dtypes = st.sampled_from(LAYOUTS), st.sampled_from(DTYPES)

        @quick
        @given(
            heads=st.integers(1, 3),
            tokens=st.integers(0, 60),
            queries=st.integers(0, 9),
            dim=st.sampled_from((1, 2, 7, 64, 100)),
            top_k=st.sampled_from((1, 2, 5, 59, 60, 61, 200)),
            dtype=dtypes,
            key_dtype=dtypes,
            query_dtype=dtypes,
            layout=st.tuples(layouts, layouts),
            cuts=st.lists(st.integers(0, 60), max_size=5),
            norm=st.sampled_from((1e-3, 1.0, 1e2)),
            seed=st.integers(0, 2**16),
        )
        def compare(
            heads: int,
            tokens: int,
            queries: int,
            dim: int,
            top_k: int,
            dtype: torch.dtype,
            key_dtype: torch.dtype,
            query_dtype: torch.dtype,
            layout: tuple[str, str],
            cuts: list[int],
            norm: float,
            seed: int,
        ) -> None:
            keys = laid_out(norm * draw(heads, tokens, dim, seed=seed, dtype=key_dtype), layout[0])
            asked = laid_out(draw(heads, queries, dim, seed=seed + 1, dtype=query_dtype), layout[1])
            pieces = [min(cut, tokens) for cut in sorted(cuts)]
            store = stores.filled(keys, keys, cuts=pieces, dtype=dtype)
            expect_exact(store.search(asked, top_k), asked, keys.to(dtype), top_k)
            stores.close(store)

        compare()

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_scores_are_inner_products_of_stored_keys(
        self, stores: Stores, dtype: torch.dtype
    ) -> None:
        """Scores are unscaled inner products of unrounded queries and the keys as stored."""
        keys = draw(HEADS, 300, DIM, dtype=dtype)
        store = stores.filled(keys, keys)
        for query_dtype in DTYPES:
            queries = draw(HEADS, 50, DIM, seed=5, dtype=query_dtype)
            expect_sound(store.search(queries, 8), queries, keys, 8)
            expect_exact(store.search(queries, 8), queries, keys, 8)

    def test_best_first(self, stores: Stores) -> None:
        """Hits come best first, in whichever order the keys were added."""
        keys = draw(HEADS, 1, DIM).expand(HEADS, 200, DIM) * torch.linspace(-1, 2, 200)[:, None]
        for order in (1, -1):
            ordered = keys.flip(1) if order < 0 else keys
            store = stores.filled(ordered, ordered, cuts=(64, 65, 150))
            queries = draw(HEADS, 6, DIM, seed=1)
            expect_exact(store.search(queries, 30), queries, ordered, 30)

    def test_many_heads_and_dimensions(self, stores: Stores) -> None:
        """Nine heads of 200 dimensions are stored and searched correctly."""
        keys, values, queries = (draw(9, 60, 200, seed=seed) for seed in range(3))
        store = stores.filled(keys, values, cuts=(7,))
        expect_contents(store, keys, values)
        expect_exact(store.search(queries, 5), queries, keys, 5)

    def test_larger_norms_win(self, stores: Stores) -> None:
        """Keys are ranked by inner product: neither by cosine nor by distance."""
        directions = torch.nn.functional.normalize(draw(HEADS, 50, DIM), dim=-1)
        norms = torch.logspace(-2, 2, 50)[:, None]
        keys = directions * norms
        queries = torch.cat([directions[:, :9] * 0.1, keys[:, 20:29], 30 * directions[:, 40:]], 1)
        store = stores.filled(keys, keys)
        for top_k in (1, 5, 50):
            expect_exact(store.search(queries, top_k), queries, keys, top_k)

    def test_small_and_large_queries(self, stores: Stores) -> None:
        """Queries are not normalised: scores grow with them, for each query by its own norm."""
        keys = draw(HEADS, 60, DIM)
        store = stores.filled(keys, keys)
        queries = draw(HEADS, 7, DIM, seed=1) * torch.logspace(-6, 6, 7)[:, None]
        expect_exact(store.search(queries, 10), queries, keys, 10)

    def test_duplicates_are_all_found(self, stores: Stores) -> None:
        """Duplicate keys are separate keys: all are found, none twice."""
        keys = draw(HEADS, 5, DIM).repeat_interleave(8, dim=1)
        store = stores.filled(keys, draw(HEADS, 40, DIM, seed=1), cuts=(3, 20))
        queries = draw(HEADS, 7, DIM, seed=2)
        for top_k in (1, 8, 12, 40, 41):
            expect_exact(store.search(queries, top_k), queries, keys, top_k)

    def test_ties(self, stores: Stores) -> None:
        """If all scores are equal, a search still returns `top_k` different hits."""
        same = draw(HEADS, 1, DIM).expand(HEADS, 70, DIM)
        for keys in (same, draw(HEADS, 70, DIM)):
            store = stores.filled(keys, keys)
            queries = torch.zeros(HEADS, 3, DIM)
            for top_k in (1, 33, 70):
                expect_exact(store.search(queries, top_k), queries, keys, top_k)
                expect_exact(store.search(same[:, :3], top_k), same[:, :3], keys, top_k)

    def test_top_k_beyond_the_length(self, stores: Stores) -> None:
        """If `top_k` exceeds the number of keys, the remaining hits are id -1 and score -inf."""
        keys = draw(HEADS, 9, DIM)
        store = stores.filled(keys, keys)
        for top_k in (8, 9, 10, 300):
            queries = draw(HEADS, 4, DIM, seed=top_k)
            hits = store.search(queries, top_k)
            expect_exact(hits, queries, keys, top_k)
            padding = [(-1, float("-inf"))] * max(0, top_k - 9)
            rest = zip(hits.ids[0, 0, 9:].tolist(), hits.scores[0, 0, 9:].tolist(), strict=True)
            expect(list(rest), padding, "what follows the last hit (id, score)")

    def test_an_empty_store(self, stores: Stores) -> None:
        """An empty store returns padding, before the first key and after the last is forgotten."""
        keys = draw(HEADS, 5, DIM)
        queries = draw(HEADS, 3, DIM, seed=1)
        for store in (stores.empty(), _emptied(stores.filled(keys, keys))):
            expect(len(store), 0, "len")
            for top_k in (1, 4):
                hits = store.search(queries, top_k)
                expect_exact(hits, queries, keys[:, :0], top_k)
                expect_rows(store.keys(hits.ids), hits.ids, keys[:, :0], "keys")
                expect_rows(store.values(hits.ids), hits.ids, keys[:, :0], "values")

    def test_one_key(self, stores: Stores) -> None:
        """A store of one key finds it, with one or several heads and dimensions."""
        for heads, dim in ((1, 1), (1, DIM), (3, 2)):
            keys, queries = draw(heads, 1, dim), draw(heads, 4, dim, seed=1)
            store = stores.filled(keys, keys)
            for top_k in (1, 3):
                expect_exact(store.search(queries, top_k), queries, keys, top_k)

    def test_heads_do_not_mix(self, stores: Stores) -> None:
        """Each head finds its own keys, and looks up its own keys and values."""
        keys = draw(3, 40, DIM) * torch.tensor([1.0, 5.0, 25.0])[:, None, None]
        values = draw(3, 40, DIM, seed=1)
        store = stores.filled(keys, values)
        queries = draw(3, 6, DIM, seed=2)
        hits = store.search(queries, 10)
        expect_exact(hits, queries, keys, 10)
        for name, found, stored in (
            ("keys", store.keys(hits.ids), keys),
            ("values", store.values(hits.ids), values),
        ):
            heads = torch.arange(3)[:, None, None]
            expect(
                torch.equal(found, stored[heads, hits.ids]), True, f"whether {name} are the head's"
            )

    @pytest.mark.parametrize(
        "key_norm, query_norm", [(1e18, 1e18), (1e-20, 1.0), (1e25, 1e5), (0.0, 1.0)], ids=str
    )
    def test_zero_and_huge_norms(self, stores: Stores, key_norm: float, query_norm: float) -> None:
        """Keys of any norm work, 0 included, as long as products are finite in float32."""
        keys = draw(HEADS, 50, DIM) * key_norm * torch.logspace(-3, 0, 50)[:, None]
        keys[:, ::7] = 0
        store = stores.filled(keys, keys, cuts=(10,))
        queries = draw(HEADS, 9, DIM, seed=2) * query_norm
        for top_k in (10, 50):
            expect_exact(store.search(queries, top_k), queries, keys, top_k)

    def test_queries_unlike_all_keys(self, stores: Stores) -> None:
        """Queries with negative scores only find the keys with the least negative ones."""
        offset = 50 * draw(HEADS, 1, DIM, seed=3)
        keys: Tensor = draw(HEADS, 200, DIM) + offset
        queries = draw(HEADS, 20, DIM, seed=4) - offset
        store = stores.filled(keys, keys, cuts=(100,))
        expect_exact(store.search(queries, 16), queries, keys, 16)


def _emptied(store: MemoryStore) -> MemoryStore:
    store.forget(len(store))
    return store
