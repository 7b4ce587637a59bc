"""Which clusters a query reads, and what it finds there."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from fotmem import create_store
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import (
    draw,
)
from fotmem_zarr.index import cluster_search
from fotmem_zarr.index.hub_keys import HubRows
from fotmem_zarr.index.limits import CLUSTER
from fotmem_zarr.store import ZarrStore
from tests.zarr_store.stores import DIM, HEADS, filled, folder_of, opened


def test_a_query_reads_few_chunks_and_finds_the_best_keys() -> None:
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
        monkeypatch.setattr(cluster_search, "FEW", few)
        before = store.chunks_probed
        store.search(q, 4)
        reads.append(store.chunks_probed - before)
    assert 3 * reads[0] < reads[1] < 8 * reads[0]  # the root of 30


def test_a_query_reads_more_clusters_of_two_segments_than_of_one() -> None:
    store, _, _ = filled(1400, nprobe=4)
    assert [segment.rows for segment in store._contents.now.segments] == [512, 512]
    store.search(draw(HEADS, 1, DIM, seed=7), 4)
    assert store.chunks_probed == HEADS * 6  # 4 times the root of 2, rounded up


def test_the_best_scores_in_a_cluster_are_estimated_well() -> None:
    store, keys, _ = filled(3000)
    segment = store._contents.now.segments[0]
    q = draw(HEADS, 50, DIM, seed=3)
    estimates = segment.index.estimate(q)
    ids = torch.from_numpy(zarr.open_array(folder_of(store) / segment.ids.path, mode="r")[:])
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
    with pytest.raises(AssertionError):  # these data show the difference
        expect_exact(few.search(q, 32), q, keys, 32)


@pytest.mark.parametrize(
    ("exact", "forgotten"),
    [
        (False, 0),
        (True, 5900),
        *(pytest.param(*case, marks=pytest.mark.thorough) for case in [(False, 5900), (True, 0)]),
    ],
)
def test_a_bias_for_the_newest_rows_finds_them(exact: bool, forgotten: int) -> None:
    store, keys, _ = filled(6000, step=500, exact=exact)
    store.forget(forgotten)
    q = draw(HEADS, 5, DIM, seed=7)
    bias = -0.01 * torch.arange(5999, -1, -1)
    scores = q @ keys.transpose(1, 2) + bias
    scores[..., :forgotten] = -torch.inf
    hits = store.search(q, 10, bias=lambda ids: bias[ids])
    torch.testing.assert_close(hits.scores, scores.topk(10).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hits.scores, scores.gather(2, hits.ids), rtol=1e-4, atol=1e-4)


def test_hub_keys_are_found_also_after_reopening(tmp_path: Path) -> None:
    keys = draw(HEADS, 9000, DIM) + 5 * draw(HEADS, 1, DIM, seed=8)
    sinks = torch.arange(50, 9000, 500)
    mean = keys.mean(1, keepdim=True)
    keys[:, sinks] = -0.5 * mean + 0.01 * keys[:, sinks]
    directory = tmp_path / "store"
    options: dict[str, Any] = {"num_heads": HEADS, "head_dim": DIM, "ram": 2**20, "nprobe": 1}
    for _ in range(2):
        with create_store("zarr", directory=directory, **options) as store:
            for some in keys[:, len(store) :].split(1000, 1):
                store.add(some, some)
            ids = store.search(draw(HEADS, 20, DIM, seed=9) - mean, 8).ids
            assert torch.isin(ids, sinks).all()


@pytest.mark.parametrize("scanned", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_hub_keys_are_found_though_no_probed_cluster_holds_them(
    tmp_path: Path, scanned: bool
) -> None:
    mean = 5 * draw(HEADS, 1, DIM, seed=9)
    keys = mean + draw(HEADS, 12_000, DIM)
    sinks = torch.arange(40, 12_000, 300)
    keys[:, sinks] = 0.01 * keys[:, sinks] - 0.5 * mean
    queries = draw(HEADS, 20, DIM, seed=1) - mean
    directory, half = tmp_path / "layer", 6000
    with opened(directory=directory, nprobe=1) as store:
        store.add(keys[:, :half], keys[:, :half])
    # A store that scans has no use for hubs, and notes none.
    with opened(directory=directory, nprobe=1, exact=scanned) as store:
        store.add(keys[:, half:], keys[:, half:])
    with opened(directory=directory, nprobe=1) as store:
        assert isinstance(store, ZarrStore)
        hits = store.search(queries, 10)
        expect_exact(hits, queries, keys, 10)
        store._hubs = HubRows()
        assert not torch.equal(store.search(queries, 10).ids, hits.ids)  # it is hubs that find them
