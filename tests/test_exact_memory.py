import functools
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem import attention, create_store
from fotmem.attention import CONVERTED, WORKSPACE
from fotmem.stores import MemoryStore
from fotmem.testing.store.allocations import Allocations
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.footprint import held_bytes
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import draw, naive_attention

HEADS, DIM = 2, 8
exact = functools.partial(create_store, "exact", num_heads=HEADS, head_dim=DIM)


def pair(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return (
        draw(HEADS, tokens, DIM, seed=2 * seed, dtype=dtype),
        draw(HEADS, tokens, DIM, seed=2 * seed + 1, dtype=dtype),
    )


def assert_holds(store: MemoryStore, keys: Tensor, values: Tensor, first_id: int = 0) -> None:
    assert (store.first_id, store.next_id) == (first_id, first_id + keys.shape[1])
    q = draw(HEADS, 3, DIM, seed=99)
    expect_exact(store.search(q, 5), q, keys, 5, first_id=first_id)
    expect_attention(
        store.attend(q, top_k=None, scale=0.3), naive_attention(q, keys, values, 0.3), q.dtype
    )
    ids = torch.arange(store.first_id, store.next_id).expand(HEADS, 1, -1)
    assert torch.equal(store.keys(ids)[:, 0], keys)
    assert torch.equal(store.values(ids)[:, 0], values)


@pytest.mark.parametrize(
    "ask, top_k, dtype",
    [
        ("search", 32, torch.float32),
        ("attend", 32, torch.float16),
        ("attend", None, torch.float32),
    ],
)
def test_workspace_is_bounded_whatever_the_queries_and_the_memory(
    ask: str, top_k: Any, dtype: torch.dtype
) -> None:
    tokens, queries = 200_000, 512
    store = exact(num_heads=1, dtype=dtype)
    keys = draw(1, 1, DIM).expand(1, tokens, DIM) * torch.linspace(1, 2, tokens)[:, None]
    store.add(keys, keys)
    q = draw(1, queries, DIM, seed=1)
    with Allocations() as made:
        if ask == "search":
            store.search(q, top_k)
        else:
            store.attend(q, top_k=top_k, scale=0.3)
    result = queries * (top_k or DIM)
    bound = max(WORKSPACE, 8 * (top_k or 1) * DIM, 2 * result)
    assert made.largest <= bound < queries * tokens / 20
    assert made.peak <= 4 * bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ask, top_k", [("search", 100), ("attend", 100), ("attend", None)])
def test_blocks_follow_the_workspace(
    ask: str, top_k: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WORKSPACE", 2**14)
    store, q = exact(num_heads=1, dtype=dtype), draw(1, 64, DIM, seed=1)
    keys, values = draw(1, 5000, DIM, dtype=dtype), draw(1, 5000, DIM, seed=2, dtype=dtype)
    store.add(keys, values)
    with Allocations() as made:
        if ask == "search":
            store.search(q, top_k)
        else:
            store.attend(q, top_k=top_k, scale=0.3)
    assert made.largest <= 2**14


@pytest.mark.parametrize("ask, top_k", [("search", 5), ("attend", 5), ("attend", None)])
def test_keys_are_converted_in_pieces_that_stay_in_caches(ask: str, top_k: Any) -> None:
    store, tokens, dim = exact(num_heads=1, head_dim=64, dtype=torch.bfloat16), 20_000, 64
    keys = draw(1, tokens, dim, dtype=torch.bfloat16)
    store.add(keys, keys)
    q = draw(1, 1, dim, seed=1)
    with Allocations() as made:
        if ask == "search":
            store.search(q, top_k)
        else:
            store.attend(q, top_k=top_k, scale=0.3)
    assert tokens < made.largest <= CONVERTED < tokens * dim


def test_growth_is_amortised() -> None:
    store, chunk, chunks = exact(), pair(2048), 64
    with Allocations() as made:
        for _ in range(chunks):
            store.add(*chunk)
    grown = [size for size in made.sizes if size > 2 * chunk[0].numel()]
    assert len(grown) <= 2 * 7  # keys and values, as often as 64 chunks double
    assert sum(grown) <= 2 * 4 * chunks * chunk[0].numel()
    # All that is there, and twice as much room to which it is moving, half of it not yet touched.
    assert held_bytes(store) <= 2 * 4 * 3 * chunks * chunk[0].numel()
    store.add(*chunk)
    heads = 2 * 8 * HEADS  # their numbers, beside keys and beside values
    assert held_bytes(store) <= 2 * 4 * 2 * chunks * chunk[0].numel() + heads


def test_a_chunk_that_fits_allocates_nothing() -> None:
    store = exact()
    store.add(*pair(100))  # takes just what it needs
    store.add(*pair(1))  # doubles
    with Allocations() as made:
        for _ in range(9):
            store.add(*pair(10))
    assert made.largest <= HEADS * 10 * DIM


def test_the_callers_tensors_stay_the_callers() -> None:
    (keys, values), store = pair(30), exact()
    kept = keys.clone(), values.clone()
    store.add(keys, values)
    keys.zero_()
    values.fill_(torch.nan)
    assert_holds(store, *kept)
    ids = torch.arange(30).expand(HEADS, 1, -1)
    store.keys(ids).zero_()
    store.values(ids).zero_()
    assert_holds(store, *kept)


def test_forgetting_frees_memory_and_keeps_ids() -> None:
    (keys, values), store = pair(4000), exact()
    store.add(keys, values)
    before = held_bytes(store)
    store.forget(3900)
    assert held_bytes(store) <= before / 10
    assert_holds(store, keys[:, 3900:], values[:, 3900:], first_id=3900)
    store.forget(10**9)
    assert held_bytes(store) <= before / 10
    assert (len(store), store.first_id, store.next_id) == (0, 4000, 4000)
    keys, values = pair(7, seed=3)
    store.add(keys, values)
    assert_holds(store, keys, values, first_id=4000)


def test_a_sliding_window_needs_bounded_memory() -> None:
    store = exact()
    for step in range(200):
        store.add(*pair(50, seed=step))
        store.forget(max(0, len(store) - 120))
        assert held_bytes(store) <= 8 * 2 * HEADS * DIM * 4 * 120
    chunks = [pair(50, seed=step) for step in (197, 198, 199)]
    keys, values = (torch.cat([chunk[i] for chunk in chunks], 1)[:, -120:] for i in range(2))
    assert_holds(store, keys, values, first_id=200 * 50 - 120)


@pytest.mark.parametrize("change", ["add to the twin", "add to the original", "forget in either"])
@pytest.mark.parametrize("room", [True, False])
def test_copies_are_independent(change: str, room: bool) -> None:
    (keys, values), (more, more_values), store = pair(20), pair(5, seed=4), exact()
    for part in (slice(0, 20),) if room else (slice(0, 10), slice(10, 20)):  # or: full to the brim
        store.add(keys[:, part], values[:, part])
    twin = store.copy()
    assert_holds(twin, keys, values)
    longer = torch.cat([keys, more], 1), torch.cat([values, more_values], 1)
    if change == "forget in either":
        store.forget(19)
        twin.forget(3)
        assert_holds(store, keys[:, 19:], values[:, 19:], first_id=19)
        assert_holds(twin, keys[:, 3:], values[:, 3:], first_id=3)
        return
    changed, kept = (twin, store) if change == "add to the twin" else (store, twin)
    changed.add(more, more_values)
    assert_holds(kept, keys, values)
    assert_holds(changed, *longer)
    kept.add(more + 1, more_values + 1)
    assert_holds(changed, *longer)
    assert_holds(kept, torch.cat([keys, more + 1], 1), torch.cat([values, more_values + 1], 1))


def test_a_copy_costs_no_memory_until_it_grows() -> None:
    store = exact()
    store.add(*pair(1000))
    with Allocations() as made:
        twin = store.copy()
    assert made.largest == 0
    assert type(twin) is type(store)


def test_what_inference_mode_stored_can_be_added_to_later() -> None:
    (keys, values), store = pair(30), exact()
    with torch.inference_mode():
        store.add(keys[:, :20], values[:, :20])
    store.add(keys[:, 20:], values[:, 20:])
    assert_holds(store, keys, values)


def test_no_gradient_flows_through_a_store() -> None:
    (keys, values), store = pair(30), exact()
    store.add(keys.requires_grad_(), values.requires_grad_())
    q = draw(HEADS, 3, DIM).requires_grad_()
    results = (*store.search(q, 3), *store.attend(q, top_k=3, scale=1.0))
    assert not any(result.requires_grad for result in results)


def test_searches_while_another_thread_adds_see_a_state_between_two_adds() -> None:
    keys, values = pair(6000)
    store, q = exact(), draw(HEADS, 4, DIM, seed=50)
    store.add(keys[:, :100], values[:, :100])
    every = q.double() @ keys.double().transpose(1, 2)
    problems: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                before = len(store)
                hits, part = store.search(q, 6), store.attend(q, top_k=None, scale=0.3)
                after = min(len(store) + 100, 6000)
                states = range(before, after + 1, 100)
                assert any(
                    torch.allclose(hits.scores.double(), every[..., :n].topk(6).values)
                    for n in states
                )
                lses = [(every[..., :n] * 0.3).logsumexp(-1) for n in states]
                assert any(torch.allclose(part.lse.double(), lse) for lse in lses)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for begin in range(100, 6000, 100):
        store.add(keys[:, begin : begin + 100], values[:, begin : begin + 100])
    done.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert_holds(store, keys, values)
