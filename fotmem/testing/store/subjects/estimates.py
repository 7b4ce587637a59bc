"""Tests of attention to all keys by an estimate, and of what a store expects of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fotmem.stores import MemoryStore, TailEstimate
from fotmem.testing.store.expectations import expect, fail
from fotmem.testing.store.naive import draw, naive_attention
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

FEW = 6000
"""Keys of a store whose estimates are looked at: enough to have an index."""
READ_ERROR = 1e-3
"""Largest error where all keys are read."""
TAIL, TAIL_ERROR = 30_000, 0.25
"""Keys of nearly equal weight, and the largest error of the estimated weight."""
QUERIES, SCALE = 5, 0.3


class Estimates:
    """What a store with `estimates_tail` does."""

    @pytest.mark.parametrize("scale", [0.01, 0.1])
    def test_an_estimated_tail(self, stores: Stores, scale: float) -> None:
        """A store with `estimates_tail` counts all keys: their weight and their values."""
        if not stores.capabilities.estimates_tail:
            pytest.skip("the store does not declare that it estimates: see test_dense_attention")
        keys, values = draw(1, TAIL, DIM), torch.zeros(1, TAIL, DIM)
        queries = 3 * draw(1, 1, DIM, seed=1)
        scores = (keys @ queries.transpose(1, 2))[0, :, 0]
        best = scores.topk(TAIL // 20).indices
        values[0, best] = 1  # of all that count about the same, one in twenty
        store = stores.filled(keys, values, cuts=(TAIL // 3, TAIL // 2))
        part = store.attend(queries, top_k=None, scale=scale)
        out, lse = naive_attention(queries, keys, values, scale)
        share = (part.lse.double() - lse).exp().item()
        if not 1 - TAIL_ERROR <= share <= 1 + TAIL_ERROR:
            fail(
                f"attend(top_k=None) over {TAIL:,} keys of nearly equal weight counts {share:.1%} "
                f"of their weight, expected 75% to 125%: the tail is dropped, not estimated (lse "
                f"{part.lse.item():.3f}, of all keys {lse.item():.3f})"
            )
        if not ((part.out - out).abs() <= TAIL_ERROR).all():
            fail(
                f"attend(top_k=None) over {TAIL:,} keys of nearly equal weight gives the best "
                f"one in twenty {part.out.mean().item():.1%} of the weight, expected "
                f"{out.mean().item():.1%}: the values of the tail are dropped, not estimated"
            )

    @pytest.mark.parametrize("tokens", [40, FEW])
    def test_what_it_expects_of_its_estimates(self, stores: Stores, tokens: int) -> None:
        """`tail_estimate` is finite and has shares; where all keys are read, attention is dense."""
        if not stores.capabilities.estimates_tail:
            pytest.skip("the store does not declare that it estimates (estimates_tail)")
        rows, queries = pair(tokens), draw(HEADS, QUERIES, DIM, seed=2)
        store = stores.filled(*rows)
        found = store.tail_estimate(queries, scale=SCALE)
        if found is None:
            pytest.skip("the store cannot tell how good it is: tail_estimate returns None")
        _expect_shares(found)
        out = store.attend(queries, top_k=None, scale=SCALE).out
        dense, _ = naive_attention(queries, *rows, SCALE)
        _expect_exact_where_all_is_read(found, (out - dense).norm(dim=-1) / dense.norm(dim=-1))
        store.search(queries, 3)
        _expect_the_same(found, store, queries)


def _expect_shares(found: TailEstimate) -> None:
    for name, figures in found._asdict().items():
        expect(tuple(figures.shape), (HEADS, QUERIES), f"shape of the {name} of tail_estimate")
        expect(figures.dtype, torch.float32, f"dtype of the {name} of tail_estimate")
        if not (figures.isfinite().all() and (figures >= 0).all()):
            fail(f"tail_estimate gives the {name} {figures.tolist()}, expected 0 or more")
    if not (found.share_read <= 1).all():
        most = found.share_read.max().item()
        fail(f"tail_estimate gives a share_read of {most:.2f}, expected a share from 0 to 1")


def _expect_exact_where_all_is_read(found: TailEstimate, errors: Tensor) -> None:
    whole = (found.share_read == 1).cpu()
    if (worst := found.error.cpu()[whole].amax().item() if whole.any() else 0) > READ_ERROR:
        fail(f"tail_estimate expects an error of {worst:.3g} where all keys are read, not 0")
    if (worst := errors[whole].amax().item() if whole.any() else 0) > READ_ERROR:
        fail(f"tail_estimate says that all keys are read, and the error is {worst:.3g}, not 0")


def _expect_the_same(found: TailEstimate, store: MemoryStore, queries: Tensor) -> None:
    again = store.tail_estimate(queries, scale=SCALE)
    if again is None:
        fail("tail_estimate could tell, and returns None after other calls")
    for name, figures in found._asdict().items():
        close = torch.allclose(getattr(again, name), figures, rtol=1e-3, atol=1e-5)
        expect(close, True, f"whether the {name} of tail_estimate is the same after other calls")
