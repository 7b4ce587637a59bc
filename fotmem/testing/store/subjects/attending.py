"""Tests of what `attend` returns, and of a bias."""

import math

import pytest
import torch
from torch import Tensor

from fotmem.attention import merge
from fotmem.stores.hits import Bias
from fotmem.stores.store import OVERFETCH
from fotmem.testing.store.expectations import expect, expect_attention, expect_softmax_of, fail
from fotmem.testing.store.hits import expect_exact, expect_sound
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.stores import DIM, HEADS, Stores

TOKENS, FIRST, DROPPED = 100, 50, 12
BEGIN = FIRST + DROPPED
CPU = torch.device("cpu")


class Attending:
    """Attention."""

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("scale", [0.25, 1.0])
    def test_softmax_over_hits(self, stores: Stores, dtype: torch.dtype, scale: float) -> None:
        """With `top_k`, `attend` returns the softmax over hits, and its log-sum-exp."""
        keys, values = (
            draw(HEADS, TOKENS, DIM, dtype=dtype),
            draw(HEADS, TOKENS, DIM, seed=1, dtype=dtype),
        )
        store = stores.filled(keys, values, first_id=FIRST)
        store.forget(DROPPED)
        for query_dtype in DTYPES:
            queries = draw(HEADS, 9, DIM, seed=2, dtype=query_dtype)
            for top_k in (1, 8, TOKENS, 2 * TOKENS):
                hits = store.search(queries, top_k)
                expect_exact(hits, queries, keys[:, DROPPED:], top_k, first_id=BEGIN)
                part = store.attend(queries, top_k=top_k, scale=scale)
                expect_softmax_of(hits, part, queries, values[:, DROPPED:], scale, BEGIN)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dense_attention(self, dense: Stores, dtype: torch.dtype) -> None:
        """With `top_k=None`, `attend` returns exact attention to all keys."""
        keys, values = (
            draw(HEADS, TOKENS, DIM, dtype=dtype),
            draw(HEADS, TOKENS, DIM, seed=1, dtype=dtype),
        )
        values[:, [DROPPED, -1]] *= 8
        store = dense.filled(keys, values, cuts=(1, 64, 99), first_id=FIRST)
        store.forget(DROPPED)
        live = keys[:, DROPPED:], values[:, DROPPED:]
        for query_dtype in DTYPES:
            queries = draw(HEADS, 9, DIM, seed=2, dtype=query_dtype)
            for scale in (0.01, 0.25, 1.0):
                part = store.attend(queries, top_k=None, scale=scale)
                expect_attention(part, naive_attention(queries, *live, scale), query_dtype)

    def test_log_sum_exp(self, dense: Stores) -> None:
        """Over `n` equal keys, lse is the scaled score plus the natural logarithm of `n`."""
        keys = draw(HEADS, 1, DIM).expand(HEADS, 64, DIM)
        values, queries = draw(HEADS, 64, DIM, seed=1), draw(HEADS, 5, DIM, seed=2)
        scores = (queries.double() * keys[:, :1].double()).sum(-1)
        store = dense.filled(keys, values)
        for top_k, count in ((None, 64), (64, 64), (8, 8)):
            _, lse = store.attend(queries, top_k=top_k, scale=0.5)
            off = (lse.double() - scores * 0.5 - math.log(count)).abs().max().item()
            if not off < 1e-4:
                fail(f"lse over {count} equal keys (top_k={top_k}) is off by {off:.4g}")

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_merged_halves(self, dense: Stores, dtype: torch.dtype) -> None:
        """The merged attentions of two stores equal that of one store with both their keys."""
        keys, values = (
            draw(HEADS, TOKENS, DIM, dtype=dtype),
            draw(HEADS, TOKENS, DIM, seed=1, dtype=dtype),
        )
        queries = draw(HEADS, 6, DIM, seed=5, dtype=dtype)
        expected = naive_attention(queries, keys, values, 0.25)
        parts = [
            dense.filled(keys[:, half], values[:, half]).attend(queries, top_k=None, scale=0.25)
            for half in (slice(0, 37), slice(37, TOKENS))
        ]
        whole = dense.filled(keys, values).attend(queries, top_k=None, scale=0.25)
        expect_attention(whole, expected, dtype)
        expect_attention(merge(parts), expected, dtype)

    def test_huge_scores(self, dense: Stores) -> None:
        """Scores too large for `exp` give the values of the best keys, never NaN."""
        keys, values = draw(HEADS, 50, DIM) * 1e15, draw(HEADS, 50, DIM, seed=1)
        queries = draw(HEADS, 9, DIM, seed=2) * 1e15
        store = dense.filled(keys, values)
        best = (queries.double() @ keys.double().transpose(1, 2)).argmax(-1)
        out = values.double()[torch.arange(HEADS)[:, None], best]
        for top_k in (10, None):
            part = store.attend(queries, top_k=top_k, scale=1.0)
            lse = (queries.double() * keys.double()[torch.arange(HEADS)[:, None], best]).sum(-1)
            expect_attention(part, (out, lse), torch.float32)

    def test_nothing_to_attend_to(self, stores: Stores) -> None:
        """An empty store returns out 0 and lse -inf; a call without queries returns no rows."""
        keys = draw(HEADS, 9, DIM)
        emptied = stores.filled(keys, keys)
        emptied.forget(9)
        for dtype in DTYPES:
            for top_k in (4, None):
                queries = draw(HEADS, 3, DIM, dtype=dtype)
                nothing = torch.zeros(HEADS, 3, DIM), torch.full((HEADS, 3), -torch.inf)
                for store in (stores.empty(), emptied):
                    part = store.attend(queries, top_k=top_k, scale=0.3)
                    expect_attention(part, nothing, dtype)
                none = stores.filled(keys, keys).attend(queries[:, :0], top_k=top_k, scale=0.3)
                expect_attention(none, (nothing[0][:, :0], nothing[1][:, :0]), dtype)

    @pytest.mark.parametrize("top_k", [5, TOKENS, 2 * TOKENS, None])
    def test_bias_of_attention(self, stores: Stores, top_k: int | None) -> None:
        """A bias is added to inner products, by id, before the softmax; -inf hides a key."""
        if top_k is None and stores.capabilities.estimates_tail:
            pytest.skip("the store only estimates dense attention (estimates_tail)")
        keys, values, queries, table = self._biased()
        store = stores.filled(keys, values, first_id=FIRST)
        store.forget(DROPPED)
        bias = _checked(table, store.device)
        part = store.attend(queries, top_k=top_k, scale=0.3, bias=bias)
        live = keys[:, DROPPED:], values[:, DROPPED:]
        if top_k == 5:
            hits = store.search(queries, top_k, bias=bias)
            expect_softmax_of(hits, part, queries, live[1], 0.3, BEGIN)
            return
        scores = (queries.double() @ live[0].double().transpose(1, 2) + table.double()) * 0.3
        expected = scores.softmax(-1) @ live[1].double(), scores.logsumexp(-1)
        expect_attention(part, expected, torch.float32)

    @pytest.mark.parametrize("top_k", [1, 5, 30, 2 * TOKENS])
    def test_bias_of_search(self, stores: Stores, top_k: int) -> None:
        """With a bias, hits are the best among at least the 4 * top_k largest inner products."""
        keys, values, queries, table = self._biased()
        store = stores.filled(keys, values, first_id=FIRST)
        store.forget(DROPPED)
        bias = _checked(table, store.device)
        hits = store.search(queries, top_k, bias=bias)
        live = keys[:, DROPPED:]
        expect_sound(
            hits, queries, live, top_k, first_id=BEGIN, bias=lambda ids: table[ids - BEGIN]
        )
        products = queries.double() @ live.double().transpose(1, 2)
        near = products.topk(min(OVERFETCH * top_k, live.shape[1]), dim=-1).indices
        sums = (products + table.double()).gather(-1, near)
        least = sums.topk(min(top_k, sums.shape[-1]), dim=-1).values
        short = hits.scores[..., : least.shape[-1]].double() < least - 1e-4
        if short.any():
            fail(
                f"search with a bias misses better keys among the {near.shape[-1]} with the "
                f"largest inner products: sums {hits.scores[short][:4].tolist()}, expected at "
                f"least {least[short][:4].tolist()}"
            )

    def test_bias_that_hides_nearly_all(self, stores: Stores) -> None:
        """If a bias hides all but a few keys, the remaining hits are padding."""
        keys, values, queries, table = self._biased()
        table[:], shown = -torch.inf, [4, 17]
        table[shown] = torch.tensor([1.0, -2.0])
        store = stores.filled(keys, values, first_id=FIRST)
        store.forget(DROPPED)
        hits = store.search(queries, TOKENS, bias=_checked(table, store.device))
        live = keys[:, DROPPED:]
        expect_sound(
            hits, queries, live, TOKENS, first_id=BEGIN, bias=lambda ids: table[ids - BEGIN]
        )
        expect(sorted({*hits.ids.flatten().tolist()} - {-1}), [BEGIN + i for i in shown], "hits")

    @staticmethod
    def _biased() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw keys, values, queries, and a bias for each live key, which hides some."""
        keys, values, queries = (draw(HEADS, n, DIM, seed=n) for n in (TOKENS, TOKENS, 7))
        table = 4 * draw(TOKENS - DROPPED, seed=4)
        table[20:26] = -torch.inf
        return keys, values.roll(1, dims=1), queries, table


def _checked(table: Tensor, device: torch.device) -> Bias:
    """Return a bias that accepts only what the interface promises."""
    table = table.to(device)

    def bias(ids: Tensor) -> Tensor:
        expect(ids.dtype, torch.int64, "dtype of the ids that a bias gets")
        expect(ids.device.type, device.type, "device of the ids that a bias gets")
        if ids.numel() and (int(ids.min()) < BEGIN or int(ids.max()) >= FIRST + TOKENS):
            fail(
                f"a bias must get ids that are held, {BEGIN} to {FIRST + TOKENS - 1}, "
                f"got {int(ids.min())} to {int(ids.max())}"
            )
        return table[ids - BEGIN]

    return bias
