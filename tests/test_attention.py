import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fotmem import attention
from fotmem.attention import (
    PartialAttention,
    causal_attention,
    dense_attention,
    merge,
    topk_attention,
)
from fotmem.testing.store.allocations import Allocations
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.naive import (
    DTYPES,
    LAYOUTS,
    draw,
    laid_out,
    naive_attention,
    naive_topk_attention,
    quick,
)

dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)


def draw_qkv(
    queries: int, tokens: int, *, dim: int = 8, heads: int = 2, batch: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((queries, 1), (tokens, 2), (tokens, 3))
    return tuple(draw(batch, heads, n, dim, seed=seed + i) for n, i in shapes)  # type: ignore[return-value]


@quick
@given(
    queries=st.integers(0, 9),
    tokens=st.integers(0, 40),
    dim=st.sampled_from((1, 2, 7, 64, 100)),
    heads=st.integers(1, 3),
    query_dtype=dtypes,
    key_dtype=dtypes,
    query_layout=layouts,
    key_layout=layouts,
    value_layout=layouts,
    workspace=st.sampled_from((1, 64, 300, 2**22)),
    blocked=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_dense_attention_equals_naive(
    queries: int,
    tokens: int,
    dim: int,
    heads: int,
    query_dtype: torch.dtype,
    key_dtype: torch.dtype,
    query_layout: str,
    key_layout: str,
    value_layout: str,
    workspace: int,
    blocked: bool,
    seed: int,
) -> None:
    q, k, v = draw_qkv(queries, tokens, dim=dim, heads=heads, seed=seed)
    q = laid_out(q.to(query_dtype), query_layout)
    k, v = laid_out(k.to(key_dtype), key_layout), laid_out(v.to(key_dtype), value_layout)
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool) if blocked else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "WORKSPACE", workspace)
        part = dense_attention(q, k, v, scale=dim**-0.5, mask=everything)
    expect_attention(part, naive_attention(q, k, v, dim**-0.5), query_dtype)


@quick
@given(
    queries=st.integers(1, 9),
    tokens=st.integers(1, 40),
    mask_shape=st.sampled_from(("BHQN", "B1QN", "11QN", "111N", "11Q1", "QN", "N")),
    share=st.sampled_from((0.0, 0.1, 0.5)),
    dtype=dtypes,
    workspace=st.sampled_from((1, 64, 4096 * 12, 2**22)),
    seed=st.integers(0, 2**16),
)
def test_masked_attention_equals_naive(
    queries: int,
    tokens: int,
    mask_shape: str,
    share: float,
    dtype: torch.dtype,
    workspace: int,
    seed: int,
) -> None:
    q, k, v = (tensor.to(dtype) for tensor in draw_qkv(queries, tokens, seed=seed))
    sizes = {"B": 2, "H": 2, "Q": queries, "N": tokens, "1": 1}
    random = torch.rand(
        [sizes[axis] for axis in mask_shape], generator=torch.Generator().manual_seed(seed)
    )
    mask = random < share  # with 0 and 0.1, many rows see nothing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "WORKSPACE", workspace)
        part = dense_attention(q, k, v, scale=0.4, mask=mask)
    expect_attention(part, naive_attention(q, k, v, 0.4, mask), dtype)


def test_fully_masked_rows_give_zero_and_no_mass() -> None:
    q, k, v = draw_qkv(3, 5)
    mask = torch.tensor([True, False, True])[:, None]
    part = dense_attention(q, k, v, scale=1.0, mask=mask)
    assert (part.out[:, :, 1] == 0).all()
    assert (part.lse[:, :, 1] == -torch.inf).all()
    assert part.lse[:, :, [0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_causal_attention_equals_naive(layout: str, dtype: torch.dtype) -> None:
    q, k, v = (laid_out(tensor.to(dtype), layout) for tensor in draw_qkv(17, 17))
    mask = torch.ones(17, 17, dtype=torch.bool).tril()
    part = causal_attention(q, k, v, scale=0.3)
    expect_attention(part, naive_attention(q, k, v, 0.3, mask), dtype)


def test_bfloat16_queries_do_not_round_float32_keys() -> None:
    q, k, v = draw_qkv(4, 200, dim=64)
    q, k = (4 * q).bfloat16(), 4 * k  # scores of about 100: rounded keys would move them by 0.3
    part = dense_attention(q, k, v, scale=1.0)
    expect_attention(part, naive_attention(q, k, v, 1.0), torch.bfloat16)


@quick
@given(cuts=st.lists(st.integers(0, 30), max_size=4), dtype=dtypes, seed=st.integers(0, 2**16))
def test_merged_parts_equal_one_softmax(cuts: list[int], dtype: torch.dtype, seed: int) -> None:
    q, k, v = (tensor.to(dtype) for tensor in draw_qkv(5, 30, seed=seed))
    bounds = [0, *sorted(cuts), 30]
    parts = [
        dense_attention(q, k[:, :, begin:end], v[:, :, begin:end], scale=1.0)
        for begin, end in itertools.pairwise(bounds)
    ]
    expect_attention(merge(parts), naive_attention(q, k, v, 1.0), dtype)


def test_merging_parts_without_keys_gives_zero_and_no_mass() -> None:
    q, k, v = draw_qkv(5, 0)
    merged = merge([dense_attention(q, k, v, scale=1.0)] * 3)
    assert (merged.out == 0).all()
    assert (merged.lse == -torch.inf).all()


def test_merge_is_differentiable_where_a_query_has_no_key() -> None:
    out = draw(2, 3).requires_grad_()
    lse = torch.tensor([1.0, -torch.inf], requires_grad=True)
    empty = PartialAttention(torch.zeros(2, 3), torch.full((2,), -torch.inf))
    merge([PartialAttention(out, lse), empty]).out.sum().backward()
    assert out.grad is not None
    assert lse.grad is not None
    assert out.grad.tolist() == [[1.0] * 3, [0.0] * 3]
    assert lse.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1e8, 1e30, -1e30])
def test_weights_sum_to_one_where_scores_are_huge(size: float) -> None:
    scores = torch.full((1, 1, 3), size)
    values = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 3, 1)
    hits = topk_attention(scores, values, scale=1.0, dtype=torch.float32)
    assert hits.out.item() == pytest.approx(3.0)
    parts = [PartialAttention(values[:, :, i], scores[:, :, i]) for i in range(3)]
    assert merge(parts).out.item() == pytest.approx(3.0)
    keys = torch.full((1, 1, 3, 1), size)
    for mask in (None, torch.ones(3, dtype=torch.bool)):
        part = dense_attention(torch.ones(1, 1, 1, 1), keys, values, scale=1.0, mask=mask)
        assert part.out.item() == pytest.approx(3.0)
        assert part.lse.item() == pytest.approx(size)


@quick
@given(
    top_k=st.integers(1, 40),
    found=st.integers(0, 40),
    dtype=dtypes,
    seed=st.integers(0, 2**16),
)
def test_topk_attention_ignores_missing_hits(
    top_k: int, found: int, dtype: torch.dtype, seed: int
) -> None:
    found = min(top_k, found)
    q, keys, values = (tensor[0] for tensor in draw_qkv(4, found, seed=seed))
    scores = torch.full((2, 4, top_k), -torch.inf)
    scores[..., :found] = q @ keys.transpose(1, 2)
    columns = torch.full((2, 4, top_k, 8), 7.0)  # whatever a store looks up for no hit
    columns[:, :, :found] = values[:, None]
    part = topk_attention(scores, columns, scale=0.5, dtype=dtype)
    expect_attention(part, naive_topk_attention(q, keys, values, 0.5, top_k), dtype)


@pytest.mark.parametrize("queries, tokens", [(1, 3000), (20, 500)])
@pytest.mark.parametrize("masked", [False, True])
def test_temporaries_are_bounded(
    masked: bool, queries: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WORKSPACE", 4096 * 4)
    q, k, v = draw_qkv(queries, tokens)
    k, v = k.bfloat16(), v.bfloat16()
    mask = torch.ones(queries, 1, dtype=torch.bool) if masked else None
    with Allocations() as made:
        dense_attention(q, k, v, scale=1.0, mask=mask)
    assert made.largest <= max(4096 * 4, 2 * q.numel())
