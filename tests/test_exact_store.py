import functools
import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fotmem import create_store
from fotmem.attention import PartialAttention, merge
from fotmem.errors import NonFiniteError
from fotmem.stores import Hits, MemoryStore
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import (
    DTYPES,
    LAYOUTS,
    draw,
    laid_out,
    naive_attention,
    naive_topk_attention,
    quick,
)

HEADS, DIM, SCALE = 2, 16, 0.25
dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)
exact = functools.partial(create_store, "exact")


def filled(
    tokens: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[MemoryStore, Tensor, Tensor]:
    keys, values = (draw(HEADS, tokens, DIM, seed=seed + i, dtype=dtype) for i in range(2))
    store = exact(num_heads=HEADS, head_dim=DIM, dtype=dtype)
    store.add(keys, values)
    return store, keys, values


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
    key_layout=layouts,
    query_layout=layouts,
    cuts=st.lists(st.integers(0, 60), max_size=5),
    norm=st.sampled_from((1e-3, 1.0, 1e2)),
    seed=st.integers(0, 2**16),
)
def test_search_and_attend_equal_naive(
    heads: int,
    tokens: int,
    queries: int,
    dim: int,
    top_k: int,
    dtype: torch.dtype,
    key_dtype: torch.dtype,
    query_dtype: torch.dtype,
    key_layout: str,
    query_layout: str,
    cuts: list[int],
    norm: float,
    seed: int,
) -> None:
    keys = laid_out(norm * draw(heads, tokens, dim, seed=seed, dtype=key_dtype), key_layout)
    values = laid_out(draw(heads, tokens, dim, seed=seed + 1, dtype=key_dtype), key_layout)
    q = laid_out(draw(heads, queries, dim, seed=seed + 2, dtype=query_dtype), query_layout)
    scale = 1 / (norm * dim**0.5)
    store = exact(num_heads=heads, head_dim=dim, dtype=dtype)
    for begin, end in itertools.pairwise([0, *sorted(cuts), 60]):
        store.add(keys[:, begin:end], values[:, begin:end])
    assert len(store) == store.next_id == tokens
    stored_keys, stored_values = keys.to(dtype), values.to(dtype)
    expect_exact(store.search(q, top_k), q, stored_keys, top_k)
    dense = store.attend(q, top_k=None, scale=scale)
    expect_attention(dense, naive_attention(q, stored_keys, stored_values, scale), query_dtype)
    if not set(LAYOUTS[4:]) & {key_layout}:  # which of many equal keys is free, their values differ
        best = store.attend(q, top_k=top_k, scale=scale)
        expected = naive_topk_attention(q, stored_keys, stored_values, scale, top_k)
        expect_attention(best, expected, query_dtype)


def test_float32_queries_are_not_rounded_to_the_stores_bfloat16() -> None:
    store, keys, values = filled(300, dtype=torch.bfloat16)
    q = draw(HEADS, 50, DIM, seed=5)
    rounded = q.bfloat16().double() @ keys.double().transpose(1, 2)
    with pytest.raises(AssertionError):  # the comparison would notice
        expect_exact(Hits(*reversed(rounded.float().topk(8))), q, keys, 8)
    expect_exact(store.search(q, 8), q, keys, 8)
    attended = store.attend(q, top_k=None, scale=SCALE)
    expect_attention(attended, naive_attention(q, keys, values, SCALE), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_and_values_come_back_as_stored(dtype: torch.dtype) -> None:
    store, keys, values = filled(20, dtype=dtype)
    ids = torch.tensor([[[3, -1], [0, 19]], [[19, 3], [-1, -1]]])
    found_keys, found_values = store.keys(ids), store.values(ids)
    assert found_keys.dtype == found_values.dtype == dtype
    for head, query, column in itertools.product(range(2), repeat=3):
        token = ids[head, query, column].item()
        for found, stored in ((found_keys, keys), (found_values, values)):
            expected = torch.zeros(DIM, dtype=dtype) if token < 0 else stored[head, int(token)]
            assert torch.equal(found[head, query, column], expected)


def test_duplicates_are_all_found() -> None:
    keys = draw(HEADS, 5, DIM).repeat_interleave(8, dim=1)
    store = exact(num_heads=HEADS, head_dim=DIM)
    store.add(keys, draw(HEADS, 40, DIM, seed=1))
    q = draw(HEADS, 7, DIM, seed=2)
    for top_k in (1, 8, 12, 40, 41):
        expect_exact(store.search(q, top_k), q, keys, top_k)


@pytest.mark.parametrize("key_norm, query_norm", [(1e18, 1e18), (1e-20, 1.0), (1e25, 1e5), (0, 1)])
def test_norms_may_be_anything_whose_products_are_finite(
    key_norm: float, query_norm: float
) -> None:
    keys = draw(HEADS, 50, DIM) * key_norm * torch.logspace(-3, 0, 50)[:, None]
    values = draw(HEADS, 50, DIM, seed=1)
    store = exact(num_heads=HEADS, head_dim=DIM)
    store.add(keys, values)
    q = draw(HEADS, 9, DIM, seed=2) * query_norm
    expect_exact(store.search(q, 10), q, keys, 10)
    for top_k in (10, None):
        part = store.attend(q, top_k=top_k, scale=1.0)
        assert part.lse.isfinite().all()
        assert (part.out.abs() <= values.abs().max() * 1.0001).all()


def test_queries_unlike_all_keys_find_the_least_bad() -> None:
    offset = 50 * draw(HEADS, 1, DIM, seed=3)
    store, q = exact(num_heads=HEADS, head_dim=DIM), draw(HEADS, 20, DIM, seed=4) - offset
    keys, values = draw(HEADS, 200, DIM) + offset, draw(HEADS, 200, DIM, seed=1)
    store.add(keys, values)
    expect_exact(store.search(q, 16), q, keys, 16)
    attended = store.attend(q, top_k=None, scale=SCALE)
    assert attended.out.isfinite().all()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def close(one: Hits | PartialAttention, other: Hits | PartialAttention) -> None:
    torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=1e-5)
    if isinstance(one, PartialAttention):
        torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [700, 5000])
def test_results_depend_neither_on_batch_nor_on_chunks_nor_on_threads(
    tokens: int, threads: int
) -> None:
    whole, keys, values = filled(tokens)
    parted = exact(num_heads=HEADS, head_dim=DIM)
    for k, v in zip(keys.split(97, 1), values.split(97, 1), strict=True):
        parted.add(k, v)
    q = draw(HEADS, 33, DIM, seed=5)
    hits, dense = whole.search(q, 12), whole.attend(q, top_k=None, scale=SCALE)
    best = whole.attend(q, top_k=12, scale=SCALE)
    expect_attention(dense, naive_attention(q, keys, values, SCALE), torch.float32)
    close(hits, parted.search(q, 12))
    for i in range(0, 33, 8):
        one = slice(i, i + 1)
        close(Hits(hits.ids[:, one], hits.scores[:, one]), parted.search(q[:, one], 12))
        for full, top_k in ((dense, None), (best, 12)):
            alone = parted.attend(q[:, one], top_k=top_k, scale=SCALE)
            close(PartialAttention(full.out[:, one], full.lse[:, one]), alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_halves_equal_the_whole(dtype: torch.dtype) -> None:
    whole, keys, values = filled(100, dtype=dtype)
    q = draw(HEADS, 6, DIM, seed=5, dtype=dtype)
    parts = []
    for half in (slice(0, 37), slice(37, 100)):
        store = exact(num_heads=HEADS, head_dim=DIM, dtype=dtype)
        store.add(keys[:, half], values[:, half])
        parts.append(store.attend(q, top_k=None, scale=SCALE))
    expected = naive_attention(q, keys, values, SCALE)
    expect_attention(merge(parts), expected, dtype)
    expect_attention(whole.attend(q, top_k=None, scale=SCALE), expected, dtype)


@pytest.mark.parametrize("forgotten", [False, True])
def test_an_empty_store_answers_with_nothing(forgotten: bool) -> None:
    store, _, _ = filled(9 if forgotten else 0)
    store.forget(9)
    q = draw(HEADS, 3, DIM)
    hits = store.search(q, 4)
    assert hits.ids.tolist() == [[[-1] * 4] * 3] * HEADS
    assert hits.scores.tolist() == [[[-torch.inf] * 4] * 3] * HEADS
    assert (store.values(hits.ids) == 0).all()
    assert store.keys(hits.ids).shape == (HEADS, 3, 4, DIM)
    for top_k in (4, None):
        out, lse = store.attend(q, top_k=top_k, scale=SCALE)
        assert (out == 0).all()
        assert (lse == -torch.inf).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_are_refused_and_nothing_is_stored(bad: float, dtype: torch.dtype) -> None:
    store, keys, _ = filled(40, dtype=dtype)
    broken = draw(HEADS, 9, DIM, dtype=dtype)
    broken[1, 8, 3] = bad
    for pair in ((broken, broken.nan_to_num()), (broken.nan_to_num(), broken)):
        with pytest.raises(NonFiniteError):
            store.add(*pair)
    for ask in (store.search, functools.partial(store.attend, scale=1.0)):
        with pytest.raises(NonFiniteError):
            ask(broken, top_k=3)
    assert store.next_id == 40
    q = draw(HEADS, 4, DIM, seed=8)
    expect_exact(store.search(q, 50), q, keys, 50)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("query_device", ["cuda", "cpu"])
def test_cuda_equals_naive_from_any_device(query_device: str, dtype: torch.dtype) -> None:
    keys, values = (draw(HEADS, 3000, DIM, seed=i, dtype=dtype) for i in range(2))
    store = exact(num_heads=HEADS, head_dim=DIM, dtype=dtype, device="cuda")
    store.add(keys, values.cuda())
    store.forget(1000)
    q = draw(HEADS, 40, DIM, seed=2)
    hits = store.search(q.to(query_device), 16)
    assert hits.ids.device.type == store.values(hits.ids).device.type == query_device
    expect_exact(hits, q, keys[:, 1000:], 16, first_id=1000)
    for top_k in (16, None):
        part = store.attend(q.to(query_device), top_k=top_k, scale=SCALE)
        assert part.out.device.type == part.lse.device.type == query_device
        live = (q, keys[:, 1000:], values[:, 1000:], SCALE)
        expected = naive_topk_attention(*live, top_k) if top_k else naive_attention(*live)
        expect_attention(part, expected, torch.float32)
