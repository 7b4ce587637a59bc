import copy
from typing import Any

import pytest
import torch

from fotmem import attention
from fotmem.errors import OptionError
from fotmem.stores import Hits, MemoryStore
from fotmem.testing.store.allocations import Allocations
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import DTYPES, draw, naive_attention, naive_topk_attention
from fotmem_exact.store import ExactStore
from tests.plain_stores import DiskStore, PlainStore

HEADS, DIM = 2, 8
KEYS, VALUES = draw(HEADS, 30, DIM, seed=1), draw(HEADS, 30, DIM, seed=2)
QUERIES = draw(HEADS, 5, DIM, seed=3)
STORES = [PlainStore, DiskStore]


def filled(kind: type[PlainStore] = PlainStore, **options: Any) -> PlainStore:
    made = kind(num_heads=HEADS, head_dim=DIM, **options)
    made.add(KEYS, VALUES)
    return made


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
def test_a_plugin_sees_its_own_dtype_and_callers_get_theirs(
    given: torch.dtype, dtype: torch.dtype, kind: type[PlainStore]
) -> None:
    made = kind(num_heads=HEADS, head_dim=DIM, dtype=dtype)
    made.add(KEYS.to(given), VALUES.to(given).requires_grad_())
    made.add(KEYS[:, :0], VALUES[:, :0])
    assert made.calls == ["add_rows"]
    stored = KEYS.to(given).to(dtype), VALUES.to(given).to(dtype)
    assert torch.equal(made.all_keys, stored[0])
    assert torch.equal(made.all_values, stored[1])
    assert not made.all_values.requires_grad
    q = QUERIES.to(given)
    expect_exact(made.search(q, 40), q, stored[0], 40)
    expected = naive_attention(q, *stored, 0.3)
    expect_attention(made.attend(q, top_k=None, scale=0.3), expected, given)
    assert made.keys(torch.zeros(HEADS, 0, 3, dtype=torch.int64)).shape == (HEADS, 0, 3, DIM)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("forgotten", [1, 13, 29])
def test_forgetting_hides_keys_whether_or_not_the_store_can(
    kind: type[PlainStore], forgotten: int
) -> None:
    made = filled(kind)
    made.forget(0)
    made.forget(forgotten)
    live = KEYS[:, forgotten:], VALUES[:, forgotten:]
    assert (len(made), made.first_id, made.next_id) == (30 - forgotten, forgotten, 30)
    for top_k in (1, 4, 30, 50):
        hits = made.search(QUERIES, top_k)
        expect_exact(hits, QUERIES, live[0], top_k, first_id=forgotten)
        made.values(hits.ids)
        expected = naive_topk_attention(QUERIES, *live, 0.3, top_k)
        expect_attention(made.attend(QUERIES, top_k=top_k, scale=0.3), expected, torch.float32)
    expected = naive_attention(QUERIES, *live, 0.3)
    expect_attention(made.attend(QUERIES, top_k=None, scale=0.3), expected, torch.float32)
    with pytest.raises(OptionError, match="count must be an integer of at least 0, got -1"):
        made.forget(-1)


def test_hiding_what_was_forgotten_needs_bounded_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    made = PlainStore(num_heads=1, head_dim=DIM)
    keys, q = draw(1, 500, DIM), draw(1, 16, DIM, seed=1)
    keys[:, :450] *= 5  # the forgotten would all be better
    made.add(keys, keys)
    made.forget(450)
    monkeypatch.setattr(attention, "WORKSPACE", 1024)
    expect_exact(made.search(q, 7), q, keys[:, 450:], 7, first_id=450)
    assert max(made.found) <= 1024 < 16 * 500


class Lossy(DiskStore):
    exact_until = 0


def test_a_store_that_found_too_few_is_not_asked_again() -> None:
    made = filled(Lossy)
    made.forget(10)
    made.calls.clear()
    hits = made.search(QUERIES, 9)
    assert made.calls == ["search_rows"]
    missing = hits.ids < 0
    assert missing.any()
    assert torch.equal(missing, hits.scores == -torch.inf)
    assert (made.values(hits.ids)[missing] == 0).all()
    weights = (hits.scores.double() * 0.3).softmax(-1).nan_to_num(0.0)
    out = torch.einsum("hqk,hqkd->hqd", weights, made.values(hits.ids).double())
    lse = (hits.scores.double() * 0.3).logsumexp(-1)
    expect_attention(made.attend(QUERIES, top_k=9, scale=0.3), (out, lse), torch.float32)


@pytest.mark.parametrize("top_k", [3, 10**6, None])
def test_attend_splits_its_work(top_k: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled()
    monkeypatch.setattr(attention, "WORKSPACE", 200)
    with Allocations() as allocated:
        part = made.attend(QUERIES, top_k=top_k, scale=0.3)
    expected = naive_topk_attention(QUERIES, KEYS, VALUES, 0.3, top_k or 30)
    expect_attention(part, expected, torch.float32)
    assert allocated.largest <= 2 * HEADS * 30 * DIM


@pytest.mark.parametrize("top_k", [3, 10**6, None])
@pytest.mark.parametrize("kind", [PlainStore, DiskStore, ExactStore])
def test_a_bias_is_added_by_id(
    kind: type[MemoryStore], top_k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WORKSPACE", 200)
    made = kind(num_heads=HEADS, head_dim=DIM)
    made.start_at(100)
    made.add(KEYS, VALUES)
    made.forget(4)
    bias = draw(30, seed=4)
    bias[7:12] = -torch.inf
    products = (QUERIES.double() @ KEYS.double().transpose(1, 2))[..., 4:]
    scores = (products + bias[4:].double()).float()
    if top_k == 3:
        candidates = 26 if kind is ExactStore else 12
        near = products.topk(candidates, dim=-1).indices
        near = near.gather(-1, scores.gather(-1, near).topk(3, dim=-1).indices)
        scores = torch.full_like(scores, -torch.inf).scatter(-1, near, scores.gather(-1, near))
    part = made.attend(QUERIES, top_k=top_k, scale=0.3, bias=lambda ids: bias[ids - 100])
    out = (scores.double() * 0.3).softmax(-1) @ VALUES[:, 4:].double()
    expect_attention(part, (out, (scores.double() * 0.3).logsumexp(-1)), torch.float32)
    if top_k == 3:
        hits = made.search(QUERIES, top_k, bias=lambda ids: bias[ids - 100])
        best = scores.topk(3, dim=-1)
        torch.testing.assert_close(hits.scores, best.values)
        assert torch.equal(hits.ids, best.indices + 104)


def test_a_bias_can_hide_keys() -> None:
    hits = filled().search(QUERIES, 9, bias=lambda ids: torch.where(ids < 5, 0.0, -torch.inf))
    found = hits.scores > -torch.inf
    assert torch.equal(hits.ids.where(found, -1), hits.ids)
    assert set(hits.ids.unique().tolist()) <= {-1, 0, 1, 2, 3, 4}
    assert found.any()


def test_dense_attention_does_not_round_at_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    made = filled(dtype=torch.bfloat16)
    monkeypatch.setattr(attention, "WORKSPACE", 1)
    q = QUERIES.bfloat16()
    out = made.attend(q, top_k=None, scale=0.01).out.double()
    expected, _ = naive_attention(q, KEYS.bfloat16(), VALUES.bfloat16(), 0.01)
    assert (out - expected).abs().max() <= 2**-8 * expected.abs().max()


def test_results_are_float32_whatever_torchs_default() -> None:
    made, empty = filled(), PlainStore(num_heads=HEADS, head_dim=DIM)
    torch.set_default_dtype(torch.float64)
    try:
        for each in (made, empty):
            assert each.search(QUERIES, 40).scores.dtype == torch.float32
            for top_k in (4, None):
                part = each.attend(QUERIES, top_k=top_k, scale=1.0)
                assert part.out.dtype == part.lse.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", STORES)
def test_start_at_moves_all_ids(kind: type[PlainStore]) -> None:
    made = kind(num_heads=HEADS, head_dim=DIM)
    made.start_at(100)
    assert made.first_id == made.next_id == 100
    made.add(KEYS, VALUES)
    made.forget(4)
    assert (made.first_id, made.next_id) == (104, 130)
    hits = made.search(QUERIES, 40)
    expect_exact(hits, QUERIES, KEYS[:, 4:], 40, first_id=104)
    heads = torch.arange(HEADS)[:, None, None]
    found = hits.ids[..., :26]
    assert torch.equal(made.values(found), VALUES[heads, found - 100])
    with pytest.raises(OptionError, match="before the first add, got 7 after 30 keys"):
        made.start_at(7)
    with pytest.raises(OptionError, match="first_id must be an integer of at least 0"):
        kind(num_heads=1, head_dim=1).start_at(-1)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("forgotten", [0, 12, 30])
def test_the_default_copy_is_independent_and_keeps_ids(
    kind: type[PlainStore], forgotten: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WORKSPACE", 100)  # several blocks
    made = kind(num_heads=HEADS, head_dim=DIM, dtype=torch.float16)
    made.start_at(5)
    made.add(KEYS, VALUES)
    made.forget(forgotten)
    stored = KEYS.half()[:, forgotten:]
    for twin in (made.copy(), copy.deepcopy(made)):
        assert type(twin) is kind
        assert twin.dtype == torch.float16
        twin.add(KEYS, VALUES)
        assert (made.first_id, made.next_id) == (5 + forgotten, 35)
        assert (twin.first_id, twin.next_id) == (5 + forgotten, 65)
        both = torch.cat([stored, KEYS.half()], 1)
        expect_exact(twin.search(QUERIES, 9), QUERIES, both, 9, first_id=5 + forgotten)
    expect_exact(made.search(QUERIES, 9), QUERIES, stored, 9, first_id=5 + forgotten)


def test_a_failing_add_leaves_the_store_as_it_was() -> None:
    made = filled()
    made.full = True
    with pytest.raises(OSError, match="no space"):
        made.add(KEYS, VALUES)
    made.full = False
    assert len(made) == made.next_id == 30
    made.add(KEYS, VALUES)
    expect_exact(made.search(QUERIES, 9), QUERIES, torch.cat([KEYS, KEYS], 1), 9)


def test_leaving_a_with_block_flushes_and_closes() -> None:
    with filled() as made:
        assert isinstance(made, MemoryStore)
    assert made.calls == ["add_rows", "close", "flush"]


def test_hits_unpack_in_the_documented_order() -> None:
    ids, scores = filled().search(QUERIES, 2)
    assert Hits(ids, scores).ids.dtype == torch.int64
