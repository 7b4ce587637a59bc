"""The `zarr` store against brute force: few rows, many segments."""

import functools
import gc
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from torch import Tensor

from fotmem import create_store
from fotmem.errors import OptionError
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
from fotmem_zarr.budget import CLUSTER
from fotmem_zarr.index import cluster_search as probe
from fotmem_zarr.index.hub_keys import Outer
from fotmem_zarr.store import ZarrStore

HEADS, DIM, SCALE = 2, 16, 0.25
SMALL = 2**20
"""A budget so small that a few thousand rows make segments of two levels."""
everything = functools.partial(
    create_store, "zarr", num_heads=HEADS, head_dim=DIM, ram=SMALL, nprobe=10_000
)


def filled(
    rows: int, *, dtype: torch.dtype = torch.float32, step: int = 97, **options: Any
) -> tuple[ZarrStore, Tensor, Tensor]:
    keys, values = (draw(HEADS, rows, DIM, seed=seed, dtype=dtype) for seed in range(2))
    keys *= torch.linspace(0.1, 3, rows)[:, None]
    options.setdefault("ram", SMALL * dtype.itemsize // 4)
    store = everything(dtype=dtype, **options)
    for k, v in zip(keys.split(step, 1), values.split(step, 1), strict=True):
        store.add(k, v)
    assert isinstance(store, ZarrStore)
    return store, keys, values


def levels(store: ZarrStore) -> set[int]:
    return {segment.level for segment in store._contents.state.segments}


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


def test_any_order_of_calls_equals_the_model(tmp_path: Path) -> None:
    make = functools.partial(create_store, "zarr", ram=2**16, nprobe=10_000)  # many segments
    stores = Stores(make, promised(make, None))
    machine: Any = type(
        "Zarr", (Calls,), {"stores": stores, "dtype": torch.float32, "root": tmp_path}
    )
    run_state_machine_as_test(
        machine, settings=settings(quick, max_examples=8, stateful_step_count=25)
    )


def test_a_query_reads_few_chunks_and_finds_what_stands_out() -> None:
    centres = 4 * draw(HEADS, 50, DIM, seed=5)
    which = torch.randint(50, (16_000,), generator=torch.Generator().manual_seed(0))
    keys = centres[:, which] + draw(HEADS, 16_000, DIM)
    store = create_store("zarr", num_heads=HEADS, head_dim=DIM, ram="8MiB", nprobe=8)
    for part in keys.split(2000, 1):
        store.add(part, part)
    assert isinstance(store, ZarrStore)
    q = centres[:, :10] + draw(HEADS, 10, DIM, seed=6)
    before = store.chunks_probed
    hits = store.search(q, 10)
    probed = (store.chunks_probed - before) / (HEADS * 10)
    assert 8 <= probed <= 0.2 * store.chunks / HEADS
    best = (q @ keys.transpose(1, 2)).topk(10).values
    assert (hits.scores >= best[..., -1:] - 1e-3).float().mean() > 0.95
    torch.testing.assert_close(
        hits.scores, torch.einsum("hqd,hqkd->hqk", q, store.keys(hits.ids)), rtol=1e-5, atol=1e-4
    )


def test_a_query_reads_more_clusters_of_a_larger_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, _ = filled(3000, nprobe=2)
    q, reads = draw(HEADS, 1, DIM, seed=7), []
    for few in (2**16, 100):
        monkeypatch.setattr(probe, "FEW", few)
        before = store.chunks_probed
        store.search(q, 4)
        reads.append(store.chunks_probed - before)
    assert 3 * reads[0] < reads[1] < 8 * reads[0]  # the root of 30


def test_a_query_reads_more_clusters_of_two_segments_than_of_one() -> None:
    store, _, _ = filled(1400, nprobe=4)
    assert [segment.rows for segment in store._contents.state.segments] == [512, 512]
    store.search(draw(HEADS, 1, DIM, seed=7), 4)
    assert store.chunks_probed == HEADS * 6  # 5.7, the root of 2 times as many


def test_the_best_scores_in_a_cluster_are_estimated_well() -> None:
    store, keys, _ = filled(3000)
    segment = store._contents.state.segments[0]
    q = draw(HEADS, 50, DIM, seed=3)
    estimates = segment.estimate(q)
    ids = torch.from_numpy(zarr.open_array(folders(store) / segment.ids.path, mode="r")[:])
    rows = ids.view(HEADS, -1, CLUSTER)[:, : estimates.shape[2]].long()
    for head, cluster in itertools.product(range(HEADS), range(estimates.shape[2])):
        size = int(segment.index.sizes[head, cluster])
        scores = q[head] @ keys[head, rows[head, cluster, :size]].T
        best = scores.topk(max(1, size // 8)).values.mean(1)
        error = (estimates[head, :, cluster] - best).abs().mean() / best.abs().mean()
        assert error < 0.25


def test_exact_scans_everything_whatever_nprobe() -> None:
    store, keys, _ = filled(3000, exact=True)
    few, _, _ = filled(3000, nprobe=1)
    q = 20 * draw(HEADS, 30, DIM, seed=3)
    expect_exact(store.search(q, 32), q, keys, 32)
    with pytest.raises(AssertionError):  # the data would tell
        expect_exact(few.search(q, 32), q, keys, 32)


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
def test_norms_may_be_anything_whose_products_are_finite(norm: float, query_norm: float) -> None:
    keys = draw(HEADS, 1500, DIM) * norm * torch.logspace(-3, 0, 1500)[:, None]
    store = everything()
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


def folders(store: ZarrStore) -> Path:
    place: Any = store._contents.files.place
    return Path(place.path)


@pytest.mark.parametrize("how", ["close", "collect"])
def test_a_temporary_folder_goes_away_with_its_store(how: str) -> None:
    store, _, _ = filled(3000)
    folder = folders(store)
    assert list(folder.glob("segments/*/keys/zarr.json"))
    if how == "close":
        store.close()
    del store
    gc.collect()
    assert not folder.exists()


def test_a_small_store_writes_nothing() -> None:
    store = create_store("zarr", num_heads=HEADS, head_dim=DIM)
    store.add(draw(HEADS, 500, DIM), draw(HEADS, 500, DIM))
    assert isinstance(store, ZarrStore)
    assert store._contents.files.place is None


def test_forgetting_frees_space() -> None:
    store, keys, _ = filled(6000, step=500)
    folder = folders(store)

    def size() -> int:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    before = size()
    store.forget(5500)
    assert size() < before / 2
    q = draw(HEADS, 5, DIM)
    expect_exact(store.search(q, 20), q, keys[:, 5500:], 20, first_id=5500)


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


@pytest.mark.parametrize("ram", ["64", 1000, "many", -1])
def test_a_budget_that_is_none_is_refused(ram: str | int) -> None:
    with pytest.raises(OptionError, match="ram"):
        everything(ram=ram)


def test_budgets_may_be_texts() -> None:
    for ram in ("1MiB", "1 MB", 2**20):
        everything(ram=ram)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("forgotten", [0, 5900])
def test_with_a_bias_for_the_newest_these_are_looked_at(exact: bool, forgotten: int) -> None:
    store, keys, _ = filled(6000, step=500, exact=exact)
    store.forget(forgotten)
    q = draw(HEADS, 5, DIM, seed=7)
    bias = -0.01 * torch.arange(5999, -1, -1)
    scores = q @ keys.transpose(1, 2) + bias
    scores[..., :forgotten] = -torch.inf
    hits = store.search(q, 10, bias=lambda ids: bias[ids])
    torch.testing.assert_close(hits.scores, scores.topk(10).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hits.scores, scores.gather(2, hits.ids), rtol=1e-4, atol=1e-4)


def test_what_stands_far_from_the_rest_is_found_also_when_reopened(tmp_path: Path) -> None:
    keys = draw(HEADS, 9000, DIM) + 5 * draw(HEADS, 1, DIM, seed=8)
    sinks = torch.arange(50, 9000, 500)
    mean = keys.mean(1, keepdim=True)
    keys[:, sinks] = -0.5 * mean + 0.01 * keys[:, sinks]
    directory = tmp_path / "store"
    options: dict[str, Any] = {"num_heads": HEADS, "head_dim": DIM, "ram": SMALL, "nprobe": 1}
    for _ in range(2):
        with create_store("zarr", directory=directory, **options) as store:
            for some in keys[:, len(store) :].split(1000, 1):
                store.add(some, some)
            ids = store.search(draw(HEADS, 20, DIM, seed=9) - mean, 8).ids
            assert torch.isin(ids, sinks).all()


@pytest.mark.parametrize("scanned", [False, True])
def test_keys_against_the_mean_are_found_though_no_cluster_that_is_read_has_them(
    tmp_path: Path, scanned: bool
) -> None:
    mean = 5 * draw(HEADS, 1, DIM, seed=9)
    keys = mean + draw(HEADS, 12_000, DIM)
    sinks = torch.arange(40, 12_000, 300)
    keys[:, sinks] = 0.01 * keys[:, sinks] - 0.5 * mean
    queries = draw(HEADS, 20, DIM, seed=1) - mean
    directory, half = tmp_path / "layer", 6000
    with everything(directory=directory, nprobe=1) as store:
        store.add(keys[:, :half], keys[:, :half])
    # A store that scans has no use for hubs, and notes none.
    with everything(directory=directory, nprobe=1, exact=scanned) as store:
        store.add(keys[:, half:], keys[:, half:])
    with everything(directory=directory, nprobe=1) as store:
        assert isinstance(store, ZarrStore)
        hits = store.search(queries, 10)
        expect_exact(hits, queries, keys, 10)
        store._outer = Outer()
        assert not torch.equal(store.search(queries, 10).ids, hits.ids)  # it is hubs that find them
