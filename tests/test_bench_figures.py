"""The figures of a benchmark of stores equal their definitions."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fotmem import create_store
from fotmem.errors import InputError, OptionError, UnknownStoreError
from fotmem.measure.bench.all_keys import all_keys_figures
from fotmem.measure.bench.figures import (
    Truth,
    attention_mass_recall,
    interval,
    search_figures,
    truth,
)
from fotmem.measure.capture import Capture
from fotmem.measure.grid import read_grid, settings
from fotmem.testing.store.naive import draw
from tests import bench_capture
from tests.bench_capture import DIM, HEADS, TOKENS, naive


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return bench_capture.make(tmp_path_factory.mktemp("capture") / "c")


def exactly(capture: Capture, size: int, top_k: int) -> Truth:
    queries, blocks = capture.queries(0, size)[:, :20], capture.blocks(0, 400, size)
    return truth(queries, blocks, scale=capture.info.scale, top_k=top_k)


@pytest.mark.parametrize("size", [1024, TOKENS])
def test_the_truth_is_exact_search_and_dense_attention(capture: Capture, size: int) -> None:
    exact, expected = exactly(capture, size, 7), naive(capture, size, 7)
    best = np.take_along_axis(expected["scores"], expected["order"], -1)
    assert np.allclose(exact.scores.numpy(), best, atol=1e-3)
    assert np.allclose(exact.out.numpy(), expected["out"], atol=1e-4)
    lse = np.log(np.exp(expected["scores"] * exact.scale).sum(-1))
    assert np.allclose(exact.lse.numpy(), lse, atol=1e-4)


def test_figures_equal_their_definitions(capture: Capture) -> None:
    """A store that misses every third key, against naive figures."""
    top_k, exact = 6, exactly(capture, TOKENS, 6)
    known = naive(capture, TOKENS, top_k)
    kept = np.arange(TOKENS) % 3 > 0
    scores = np.where(kept, known["scores"], -np.inf)
    ids = np.argsort(-scores, axis=-1)[..., :top_k]
    values = capture.rows(0).values.double().numpy()
    weights = np.take_along_axis(known["weights"], ids, -1)
    share = weights / weights.sum(-1, keepdims=True)
    heads = np.arange(HEADS)[:, None, None]
    out = (share[..., None] * values[heads, ids]).sum(-2)

    found = torch.tensor(np.take_along_axis(scores, ids, -1))
    judged = search_figures(found, torch.tensor(out), exact)
    right = [
        [len(set(ids[h, q]) & set(known["order"][h, q])) / top_k for q in range(20)]
        for h in range(HEADS)
    ]
    assert judged.recall.value == pytest.approx(np.mean(right))
    best = np.take_along_axis(known["weights"], known["order"], -1)
    assert judged.attention_mass_recall.value == pytest.approx(weights.sum() / best.sum(), rel=1e-4)
    assert attention_mass_recall(found, exact) == pytest.approx(judged.attention_mass_recall.value)
    errors = np.linalg.norm(out - known["out"], axis=-1) / np.linalg.norm(known["out"], axis=-1)
    assert judged.error.value == pytest.approx(errors.mean(), rel=1e-3)
    assert judged.error_p95.value == pytest.approx(np.quantile(errors, 0.95), rel=1e-2)
    most = best / best.sum(-1, keepdims=True)
    topk_out = (most[..., None] * values[heads, known["order"]]).sum(-2)
    added = np.linalg.norm(out - topk_out, axis=-1) / np.linalg.norm(topk_out, axis=-1)
    assert judged.excess_error.value == pytest.approx(added.mean(), rel=1e-3)
    assert judged.recall.high - judged.recall.low < 0.2
    for figure in judged:
        assert figure.low <= figure.value <= figure.high


def test_equal_scores_count_as_equal() -> None:
    best = torch.tensor([[[3.0, 2.0, 2.0]]])
    ones = torch.ones(1, 1, 1)
    exact = Truth(ones, best, torch.ones(1, 1, 3, 1), ones, torch.ones(1, 1), 1.0)
    for found, recall in (([3.0, 2.0, 2.0], 1), ([3.0, 2.0, 1.0], 2 / 3), ([2.0, 2.0, 1.9], 2 / 3)):
        judged = search_figures(torch.tensor([[found]]), exact.out, exact)
        assert judged.recall.value == pytest.approx(recall)
        assert judged.error.value == 0
        assert judged.excess_error.value == pytest.approx(0, abs=1e-6)
    few = search_figures(torch.tensor([[[3.0, 2.0, 2.0, -torch.inf]]]), exact.out, exact)
    assert few.recall.value == 1  # fewer keys than were asked for
    assert few.attention_mass_recall.value == 1


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    draws = torch.randn(100, 60, generator=torch.Generator().manual_seed(0))
    covered = [low <= 0 <= high for _, low, high in (interval(np.mean, row) for row in draws)]
    assert 0.88 < np.mean(covered) <= 1


def test_settings_are_all_combinations_and_begin_with_the_defaults() -> None:
    default, *others = settings(["faiss-ivf"])
    assert default.options == {"nprobe": 32}
    assert {each.options["nprobe"] for each in others} == {4, 8, 16, 64, 128}
    grid = {"hnsw": {"M": [8, 16], "ef_search": [64, 128]}}
    made = settings(["exact", "hnsw", "exact"], grid)
    assert [str(each) for each in made] == [
        "exact",
        "hnsw M=8 ef_search=64",
        "hnsw M=8 ef_search=128",
        "hnsw M=16 ef_search=64",
        "hnsw M=16 ef_search=128",
    ]


def test_wrong_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownStoreError, match="did you mean 'exact'"):
        settings(["exat"])
    with pytest.raises(UnknownStoreError, match="no store is named 'exat'; did you mean 'exact'"):
        settings(["exact"], {"exat": {"M": [8]}})
    with pytest.raises(OptionError, match=r"has hnsw, which --stores does not name \(exact\)"):
        settings(["exact"], {"hnsw": {"M": [8]}})
    with pytest.raises(OptionError, match="did you mean 'nprobe'"):
        settings(["zarr"], {"zarr": {"nprob": [8]}})
    with pytest.raises(OptionError, match="must be at least 1, got 0"):
        settings(["zarr"], {"zarr": {"nprobe": [8, 0]}})
    file = tmp_path / "grid.toml"
    for content, reason in (
        ("hnsw = 3", r"hnsw is 3; a grid has a table for each store"),
        ("[hnsw]\nM = 8", r"hnsw\.M is 8; a grid"),
        ("[hnsw]\nM = []", r"hnsw\.M is \[\]; a grid"),
        ("[hnsw", "is not TOML"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=reason):
            read_grid(file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_grid(tmp_path / "none.toml")
    file.write_text("[hnsw]\nM = [8, 16]\n[exact]\n")
    assert read_grid(file) == {"hnsw": {"M": [8, 16]}, "exact": {}}


def test_the_share_of_keys_that_is_read() -> None:
    pytest.importorskip("faiss")
    keys = draw(HEADS, 5000, DIM)
    queries = draw(HEADS, 30, DIM, seed=1)
    store = create_store("faiss-ivf", num_heads=HEADS, head_dim=DIM, nlist=10, nprobe=10)
    store.add(keys, keys)
    assert store.share_read(queries, 4) == 1
    shares: list[Any] = []
    for nprobe in (1, 2, 5):
        store.tune(nprobe=nprobe)
        shares.append(store.share_read(queries, 4))
    assert 0.05 < shares[0] < shares[1] < shares[2] < 0.7
    assert create_store("exact", num_heads=1, head_dim=4).share_read(queries, 4) is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc tells what to give back")
def test_memory_that_was_freed_is_not_counted() -> None:
    """Small blocks come from a heap, which the last of them keeps from getting smaller."""
    script = (
        "from fotmem.measure.machine import resident\n"
        "before = resident()\n"
        "blocks = [b'x' * 2**16 for _ in range(1000)]\n"
        "full = resident()\n"
        "del blocks[:-1]\n"
        "print(full - before, resident() - before)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    full, freed = map(int, told.stdout.split())
    assert full > 60 * 2**20
    assert freed < 10 * 2**20


def test_errors_of_attention_to_all_keys() -> None:
    """Estimated errors are compared with true ones, in quarters of the queries."""
    dense = torch.ones(2, 4, 3)
    true = torch.tensor([[0.1, 0.3, 0.7, 0.4], [0.8, 0.5, 0.2, 0.6]])
    estimated = torch.tensor([[1.0, 3.0, 2.0, 4.0], [8.0, 5.0, 7.0, 6.0]])
    none = torch.empty(2, 4, 0)
    exact = Truth(dense, none, none, dense, none, 1.0)
    found = all_keys_figures(dense * (1 + true[..., None]), estimated, exact)
    assert found.error.value == pytest.approx(0.45)
    assert 0.7 < found.error_p95.value < 0.8
    assert found.estimated_error == 4.5
    assert [each.estimated for each in found.calibration] == [1.5, 3.5, 5.5, 7.5]
    assert [each.true for each in found.calibration] == pytest.approx([0.4, 0.35, 0.55, 0.5])
    unknown = all_keys_figures(dense, None, exact)
    assert unknown.error.value == 0
    assert unknown.estimated_error is None
    assert unknown.calibration == ()
