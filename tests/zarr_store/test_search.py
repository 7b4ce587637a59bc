"""The `zarr` store against brute force: few rows, many segments."""

import functools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from fotmem import create_store
from fotmem.testing.store.calls import Calls
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import (
    DTYPES,
    draw,
    naive_attention,
    naive_topk_attention,
    quick,
)
from fotmem.testing.store.stores import Stores, promised
from fotmem_zarr.store import ZarrStore
from tests.zarr_store.stores import DIM, HEADS, filled, opened

SCALE = 0.25


def levels(store: ZarrStore) -> set[int]:
    return {segment.level for segment in store._contents.now.segments}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exact", [False, True])
def test_all_clusters_together_hold_all_keys_once(dtype: torch.dtype, exact: bool) -> None:
    store, keys, values = filled(3500, dtype=dtype, exact=exact)
    assert len(levels(store)) > 1
    q = draw(HEADS, 40, DIM, seed=3)
    hits = store.search(q, 16)
    expect_exact(hits, q, keys, 16)
    heads = torch.arange(HEADS)[:, None, None]
    assert torch.equal(store.keys(hits.ids), keys[heads, hits.ids])
    assert torch.equal(store.values(hits.ids), values[heads, hits.ids])
    dense = store.attend(q, top_k=None, scale=SCALE)
    expect_attention(dense, naive_attention(q, keys, values, SCALE), torch.float32)
    best = store.attend(q, top_k=9, scale=SCALE)
    expect_attention(best, naive_topk_attention(q, keys, values, SCALE, 9), torch.float32)


@settings(quick, max_examples=15)
@given(
    rows=st.integers(1, 4000),
    step=st.sampled_from((1, 60, 977)),
    forgotten=st.integers(0, 4100),
    top_k=st.sampled_from((1, 17, 300, 3000)),
    seed=st.integers(0, 100),
)
def test_any_length_cut_anywhere_equals_naive(
    rows: int, step: int, forgotten: int, top_k: int, seed: int
) -> None:
    store, keys, values = filled(rows, step=max(step, rows // 20))
    store.forget(forgotten)
    forgotten = min(forgotten, rows)
    q = draw(HEADS, 3, DIM, seed=seed)
    expect_exact(store.search(q, top_k), q, keys[:, forgotten:], top_k, first_id=forgotten)
    if forgotten < rows:
        part = store.attend(q, top_k=None, scale=SCALE)
        live = keys[:, forgotten:], values[:, forgotten:]
        expect_attention(part, naive_attention(q, *live, SCALE), torch.float32)


def test_any_order_of_calls_agrees_with_the_model(tmp_path: Path) -> None:
    make = functools.partial(create_store, "zarr", ram=2**16, nprobe=10_000)  # many segments
    stores = Stores(make, promised(make, None))
    machine: Any = type(
        "Zarr", (Calls,), {"stores": stores, "dtype": torch.float32, "root": tmp_path}
    )
    run_state_machine_as_test(
        machine, settings=settings(quick, max_examples=8, stateful_step_count=25)
    )


def test_results_depend_neither_on_batch_nor_on_chunks_of_adding() -> None:
    store, keys, _ = filled(2000, nprobe=4)
    other, _, _ = filled(2000, nprobe=4, step=2000)
    q = draw(HEADS, 50, DIM, seed=4)
    whole = store.search(q, 8)
    for i in range(0, 50, 7):
        alone = store.search(q[:, i : i + 1], 8)
        torch.testing.assert_close(alone.scores[:, 0], whole.scores[:, i], rtol=1e-5, atol=1e-5)
    again = filled(2000, nprobe=4)[0].search(q, 8)
    assert torch.equal(again.ids, whole.ids)
    expect_exact(other.search(q, 2000), q, keys, 2000)


@pytest.mark.parametrize("norm, query_norm", [(1e18, 1e18), (1e25, 1e5), (1e-20, 1.0), (0, 1)])
def test_norms_may_be_anything_with_finite_products(norm: float, query_norm: float) -> None:
    keys = draw(HEADS, 1500, DIM) * norm * torch.logspace(-3, 0, 1500)[:, None]
    store = opened()
    for part in keys.split(100, 1):
        store.add(part, part)
    q = draw(HEADS, 9, DIM, seed=2) * query_norm
    expect_exact(store.search(q, 10), q, keys, 10)


def test_copies_are_independent_and_share_files() -> None:
    store, keys, values = filled(3000)
    twin = store.copy()
    more = draw(HEADS, 700, DIM, seed=7)
    for part in more.split(100, 1):
        twin.add(part, part)
        store.add(-part, -part)
    q = draw(HEADS, 20, DIM, seed=8)
    for one, rest in ((twin, more), (store, -more)):
        expect_exact(one.search(q, 12), q, torch.cat([keys, rest], 1), 12)
        expected = naive_attention(
            q, torch.cat([keys, rest], 1), torch.cat([values, rest], 1), SCALE
        )
        expect_attention(one.attend(q, top_k=None, scale=SCALE), expected, torch.float32)
    store.close()
    expect_exact(twin.search(q, 12), q, torch.cat([keys, more], 1), 12)


def test_searching_while_adding_finds_what_was_there() -> None:
    store, keys, _ = filled(1000)
    q, failures = draw(HEADS, 5, DIM, seed=9), []
    best = (q @ keys.transpose(1, 2)).topk(5).values
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            scores = store.search(q, 5).scores
            if not (scores >= best - 1e-4).all():
                failures.append(scores)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for part in draw(HEADS, 4000, DIM, seed=10).split(100, 1):
        store.add(part, part)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
