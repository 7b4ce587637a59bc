"""What callers pass: kept from harm, converted, or refused."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.attention import PartialAttention
from fotmem.errors import DtypeError, NonFiniteError, OptionError, ShapeError
from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import expect, expect_attention, expect_rows, fault
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_same
from fotmem.testing.store.naive import DTYPES, LAYOUTS, draw, laid_out, naive_attention
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

TOKENS = 40


class Inputs:
    """What callers pass."""

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_strides(self, stores: Stores, layout: str) -> None:
        """Keys, values, queries and ids may be non-contiguous or expanded."""
        keys, values, queries = (draw(HEADS, TOKENS, DIM, seed=seed) for seed in range(3))
        keys, values, queries = (laid_out(each, layout) for each in (keys, values, queries))
        store = stores.filled(keys, values, cuts=(7,))
        expect_contents(store, keys, values)
        hits = store.search(queries, 9)
        expect_exact(hits, queries, keys, 9)
        part = store.attend(queries, top_k=None, scale=0.25)
        expect_attention(part, naive_attention(queries, keys, values, 0.25), torch.float32)
        turned = hits.ids.transpose(1, 2)
        expect_rows(store.values(turned), turned, values, "values")

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("given", DTYPES, ids=str)
    def test_dtypes_are_converted(
        self, stores: Stores, given: torch.dtype, dtype: torch.dtype
    ) -> None:
        """Keys and values of any supported dtype are stored in the store's dtype."""
        keys, values = (
            draw(HEADS, TOKENS, DIM, dtype=given),
            draw(HEADS, TOKENS, DIM, seed=1, dtype=given),
        )
        store = stores.filled(keys, values, dtype=dtype)
        expect(store.dtype, dtype, "dtype of the store")
        expect((store.num_heads, store.head_dim), (HEADS, DIM), "num_heads and head_dim")
        expect_contents(store, keys.to(dtype), values.to(dtype))

    def test_callers_tensors_are_copied(self, stores: Stores) -> None:
        """A change of the caller's keys and values after `add` does not reach the store."""
        for cuts in ((), (30,), (1, 2)):
            keys, values = pair(TOKENS)
            given = keys.clone(), values.clone()
            store = stores.filled(*given, cuts=cuts)
            for tensor in given:
                tensor.fill_(7)
            with fault("the store keeps the caller's tensors instead of copies"):
                expect_contents(store, keys, values)

    def test_callers_tensors_are_not_changed(self, stores: Stores) -> None:
        """A call does not change its keys, values, queries or ids."""
        given = [draw(HEADS, TOKENS, DIM, seed=seed) * 3 for seed in range(3)]
        before = [each.clone() for each in given]
        keys, values, queries = given
        store = stores.filled(keys, values)
        ids = store.search(queries, 5).ids
        ids[:, 0] = -1
        held = ids.clone()
        store.attend(queries, top_k=5, scale=0.3)
        store.attend(queries, top_k=None, scale=0.3)
        store.values(ids)
        store.keys(ids)
        for name, one, other in zip(("keys", "values", "queries"), given, before, strict=True):
            expect(torch.equal(one, other), True, f"whether {name} are as they were before")
        expect(torch.equal(ids, held), True, "whether ids are as they were before")

    def test_results_belong_to_the_caller(self, stores: Stores) -> None:
        """Later calls do not change a result, and a changed result does not change the store."""
        keys, values, queries = (draw(HEADS, TOKENS, DIM, seed=seed) for seed in range(3))
        store = stores.filled(keys, values)

        def ask(queries: Tensor) -> list[Tensor]:
            hits = store.search(queries, 6)
            parts = [store.attend(queries, top_k=top_k, scale=0.3) for top_k in (6, None)]
            looked_up = [store.keys(hits.ids), store.values(hits.ids)]
            return [*hits, *looked_up, *(each for part in parts for each in part)]

        first = ask(queries)
        before = [each.clone() for each in first]
        ask(draw(HEADS, TOKENS, DIM, seed=7))
        store.add(keys, values)
        for one, other in zip(first, before, strict=True):
            expect(torch.equal(one, other), True, "whether an earlier answer is as it was")
        ids = torch.arange(TOKENS).expand(HEADS, 1, -1)
        for each in (*first, store.keys(ids), store.values(ids)):
            each.fill_(3)
        expect_contents(store, torch.cat([keys, keys], 1), torch.cat([values, values], 1))

    def test_gradients_and_inference_mode(self, stores: Stores) -> None:
        """No gradient flows, and a store can be filled inside and outside of inference mode."""
        keys, values, queries = (draw(HEADS, TOKENS, DIM, seed=seed) for seed in range(3))
        leaves = [each.clone().requires_grad_() for each in (keys, values, queries)]
        store = stores.empty()
        with torch.inference_mode():
            store.add(keys[:, :9].clone(), values[:, :9].clone())
        store.add(leaves[0][:, 9:], leaves[1][:, 9:])
        hits = store.search(leaves[2], 4)
        part = store.attend(leaves[2], top_k=None, scale=0.3)
        results = [hits.scores, store.keys(hits.ids), store.values(hits.ids), part.out, part.lse]
        expect([each.requires_grad for each in results], [False] * 5, "requires_grad of results")
        with torch.inference_mode():
            expect_exact(store.search(queries, 4), queries, keys, 4)
        expect_contents(store, keys, values)

    def test_autocast_and_the_default_dtype(self, stores: Stores) -> None:
        """`torch.autocast` and the default dtype do not change what a store answers."""
        tokens = 5000  # enough for an index to be built
        keys, values, queries = (draw(HEADS, tokens, DIM, seed=seed) for seed in range(3))
        queries, default = queries[:, :30], torch.get_default_dtype()

        def asked() -> tuple[Hits, PartialAttention, PartialAttention]:
            store = stores.filled(keys, values, cuts=(4500,))
            few, every = (store.attend(queries, top_k=top_k, scale=0.3) for top_k in (6, None))
            return store.search(queries, 6), few, every

        expected = asked()
        try:
            torch.set_default_dtype(torch.float64)
            with torch.autocast(stores.device, dtype=torch.bfloat16):
                found = asked()
        finally:
            torch.set_default_dtype(default)
        expect_same(found[0], expected[0], queries, keys, "a store within autocast and one without")
        for mine, plain in zip(found[1:], expected[1:], strict=True):
            expect_attention(mine, (plain.out.double(), plain.lse.double()), torch.float32)

    def test_adding_nothing(self, stores: Stores) -> None:
        """Adding zero tokens is allowed, and changes nothing."""
        keys, values = pair(TOKENS)
        store = stores.empty()
        store.add(keys[:, :0], values[:, :0])
        expect_contents(store, keys[:, :0], values[:, :0])
        store.add(keys, values)
        store.add(keys[:, :0], values[:, :0])
        expect_contents(store, keys, values)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_nan_and_inf_are_refused(self, stores: Stores, dtype: torch.dtype, bad: float) -> None:
        """NaN and Inf in keys, values or queries are refused, and change nothing."""
        keys, values = (
            draw(HEADS, TOKENS, DIM, dtype=dtype),
            draw(HEADS, TOKENS, DIM, seed=1, dtype=dtype),
        )
        store = stores.filled(keys, values)
        good = draw(HEADS, 9, DIM, seed=2, dtype=dtype)
        broken = good.clone()
        broken[1, 8, 3] = bad
        for name, both in (("keys", (broken, good)), ("values", (good, broken))):
            call = functools.partial(store.add, *both)
            expect_refusal(NonFiniteError, call, f"{bad} in {name}")
        for top_k in (3, None):
            expect_refusal(NonFiniteError, _attend(store, broken, top_k), f"{bad} in queries")
        expect_refusal(NonFiniteError, _search(store, broken), f"{bad} in queries")
        expect_contents(store, keys, values)

    def test_overflow_is_refused(self, stores: Stores) -> None:
        """Numbers too large for the store's float16 are refused, and change nothing."""
        keys = draw(HEADS, TOKENS, DIM).half()
        store = stores.filled(keys, keys)
        huge = draw(HEADS, 3, DIM)
        huge[0, 1, 2] = 1e6
        for both in ((huge, huge.clamp(-1, 1)), (huge.clamp(-1, 1), huge)):
            expect_refusal(NonFiniteError, functools.partial(store.add, *both), "1e6 as float16")
        expect_contents(store, keys, keys)

    def test_wrong_shapes_and_dtypes_are_refused(self, stores: Stores) -> None:
        """Wrong shapes, dtypes and values of `top_k` are refused, and change nothing."""
        keys, values = pair(TOKENS)
        store = stores.filled(keys, values)
        misshapen = (keys[0], keys[:1], keys[..., :-1], keys[None], keys.repeat(2, 1, 1))
        for bad in misshapen:
            for both in ((bad, bad), (bad, values), (keys, bad)):
                what = f"keys {list(both[0].shape)}, values {list(both[1].shape)}"
                expect_refusal(ShapeError, functools.partial(store.add, *both), what)
            for call in (_search(store, bad), _attend(store, bad, 3), _attend(store, bad, None)):
                expect_refusal(ShapeError, call, f"queries of shape {list(bad.shape)}")
        fewer = functools.partial(store.add, keys, values[:, :-1])
        expect_refusal(ShapeError, fewer, "fewer values than keys")
        for dtype in (torch.float64, torch.int64):
            bad = keys.to(dtype)
            for both in ((bad, values), (keys, bad)):
                expect_refusal(DtypeError, functools.partial(store.add, *both), str(dtype))
            for call in (_search(store, bad), _attend(store, bad, 3)):
                expect_refusal(DtypeError, call, f"queries of {dtype}")
        for top_k in (0, -1, 1.5, True, "3"):
            expect_refusal(OptionError, _search(store, keys, top_k), f"top_k {top_k!r}")
            expect_refusal(OptionError, _attend(store, keys, top_k), f"top_k {top_k!r}")
        expect_contents(store, keys, values)


def _search(store: MemoryStore, queries: Tensor, top_k: Any = 3) -> Callable[[], object]:
    return functools.partial(store.search, queries, top_k)


def _attend(store: MemoryStore, queries: Tensor, top_k: Any) -> Callable[[], object]:
    return functools.partial(store.attend, queries, top_k=top_k, scale=1.0)
