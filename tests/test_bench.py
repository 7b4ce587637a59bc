"""`fotmem bench`: its figures against naive ones, what it measures, and what fails."""

import json
import multiprocessing
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from fotmem import create_store
from fotmem.errors import InputError, OptionError, UnknownStoreError
from fotmem.measure.bench.figures import (
    Truth,
    attention_mass_recall,
    interval,
    search_figures,
    truth,
)
from fotmem.measure.bench.process import StoreFailedError, Worker
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.bench.run import Bench, Plan
from fotmem.measure.bench.store_job import StoreJob
from fotmem.measure.capture import Capture, capture_random
from fotmem.measure.grid import Grid, read_grid, settings
from fotmem.plugin import registry
from fotmem.testing.store.naive import draw
from tests.commands import call, refusal
from tests.plugins import hook, install

HEADS, DIM, TOKENS = 2, 8, 1500
PLAN = Plan(top_k=(1, 4), queries=20, rounds=2, threads=1)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return capture_random(
        tmp_path_factory.mktemp("capture") / "c",
        tokens=TOKENS,
        queries=24,
        num_heads=HEADS,
        head_dim=DIM,
        mismatch=0.5,
    )


def naive(capture: Capture, size: int, top_k: int) -> dict[str, Any]:
    """Everything by its definition, in float64."""
    rows = capture.rows(0, 0, size)
    keys, values = (each.double().numpy() for each in rows)
    queries = capture.queries(0, size)[:, :20].double().numpy()
    scores = queries @ keys.transpose(0, 2, 1)
    weights = np.exp(scores * capture.info.scale)
    weights /= weights.sum(-1, keepdims=True)
    order = np.argsort(-scores, axis=-1)[..., :top_k]
    return {"scores": scores, "weights": weights, "out": weights @ values, "order": order}


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
    with pytest.raises(UnknownStoreError, match="no store is named 'hnsw'; the stores are: exact"):
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


BROKEN = """
import os, signal

def failing(**arguments):
    store = build(**arguments)
    add = store.add_rows
    def refuse(keys, values):
        if store.added_rows >= 1000:
            raise OSError('the disk is full')
        add(keys, values)
    store.add_rows = refuse
    return store

def dying(**arguments):
    store = build(**arguments)
    def die(*given):
        if store.added_rows == 1500:
            os.kill(os.getpid(), signal.SIGKILL)
        return type(store).search_rows(store, *given)
    store.search_rows = die
    return store

def poor(**arguments):
    raise AssertionError

""" + hook(
    "[spec('failing', factory=failing), spec('dying', factory=dying), "
    "spec('absent', factory=poor, requires=('not_there',), install='pip install it')]"
)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install stores that fail."""
    install(tmp_path, "broken_stores_of_bench", BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.registry.cache_clear()
    yield
    monkeypatch.undo()
    registry.registry.cache_clear()


def test_a_failing_store_is_reported_and_others_continue(
    broken: None, capture: Capture, tmp_path: Path
) -> None:
    every = settings(["failing", "exact", "absent", "dying"])
    bench = Bench(capture, every, [0], tmp_path / "out" / "report.json", PLAN)
    left = bench.steps
    steps = list(bench.run())
    assert sum("building" in step.what for step in steps) == 4
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[-1] < left == 4 * (2 + PLAN.rounds)
    report = BenchReport.read(bench.file)
    assert {(row.setting.store, row.top_k) for row in report.rows} == {("exact", 1), ("exact", 4)}
    reasons = {failure.setting.store: failure.reason for failure in report.failures}
    assert reasons["failing"] == "OSError: the disk is full"
    assert reasons["absent"] == (
        "'absent' is not available here: needs not_there, not installed: pip install it"
    )
    assert reasons["dying"] == "its process was killed: too little memory?"


def test_results_are_received_after_the_process_ended(broken: None, capture: Capture) -> None:
    job = StoreJob(
        capture=str(capture.directory),
        layer=0,
        settings=tuple(settings(["failing"])),
        queries=4,
        device="cpu",
        store_device="cpu",
        threads=1,
        sizes=(1024, TOKENS),
        top_k=2,
    )
    with Worker(job) as worker:
        [process] = multiprocessing.active_children()
        process.join()
        told = worker.results()
        assert next(told).size == 1024
        with pytest.raises(StoreFailedError, match=r"^OSError: the disk is full$"):
            next(told)


def test_the_report_is_complete(capture: Capture, tmp_path: Path) -> None:
    grid: Grid = {"faiss-ivf": {"nlist": [20], "nprobe": [1, 20], "values": ["mmap"]}}
    pytest.importorskip("faiss")
    file = tmp_path / "report.json"
    bench = Bench(capture, settings(["exact", "faiss-ivf", "zarr"], grid), [0], file, PLAN)
    list(bench.run())
    report = BenchReport.read(file)
    assert report == bench.report
    assert not report.failures
    rows = {(str(row.setting), row.top_k): row for row in report.rows}
    assert len(rows) == len(report.rows) == 2 * (1 + 2 + 6)
    for row in rows.values():
        assert 0 < row.latency_p50.value <= row.latency_p95.value <= row.latency_p99.value
        assert row.window_latency.low <= row.window_latency.value <= row.window_latency.high
        assert row.batch == 0
        assert row.relative_latency
        assert row.relative_window_latency
        assert (row.relative_latency.value == 1) == (row.setting.store == "exact")
        assert row.relative_window_latency.low <= row.relative_window_latency.value
        assert row.build.max_insert_latency >= row.build.median_insert_latency > 0
        assert (row.build.disk > 0) == (row.setting.store != "exact")
        assert row.build.ram < 10_000
    exact = rows["exact", 4]
    assert exact.recall.value == exact.attention_mass_recall.value == exact.share_read == 1
    known = naive(capture, TOKENS, 4)
    error = rows["exact", 1].error.value
    values = capture.rows(0).values.double().numpy()
    first = np.take_along_axis(values, known["order"][..., :1], 1)
    lengths = np.linalg.norm(known["out"], axis=-1)
    assert error == pytest.approx((np.linalg.norm(first - known["out"], axis=-1) / lengths).mean())
    assert exact.error.value < error
    grown = {row.size: row for row in report.growth if row.setting.store == "exact"}
    assert sorted(grown) == [1024, TOKENS]
    assert grown[1024].recall.value == 1
    for row in report.rows:  # what was asked last while growing is what is asked when complete
        if row.top_k == 4:
            [last] = [g for g in report.growth if g.about == row.about and g.size == TOKENS]
            assert last.attention_mass_recall == row.attention_mass_recall


def test_existing_rows_are_not_measured_again(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    steps = Bench(capture, settings(["exact", "faiss-flat"]), [0], file, PLAN).run()
    for step in steps:
        if "faiss-flat" in step.what:
            break
    steps.close()  # stopped while the second was about to be built
    list(Bench(capture, settings(["exact"]), [0], file, PLAN).run())
    first = BenchReport.read(file)
    assert len(first.rows) == 2
    every = Bench(capture, settings(["exact", "faiss-flat"]), [0], file, PLAN)
    built = [step.what for step in every.run() if "building" in step.what]
    assert built == ["layer 0: building faiss-flat"]
    assert BenchReport.read(file).rows[:2] == first.rows
    assert not list(every.run())
    told = r"is the report of another run, with top_k \[1, 4\], not \[2\]: name a new folder"
    with pytest.raises(InputError, match=told):
        Bench(capture, [], [0], file, replace(PLAN, top_k=(2,)))
    other = first.model_copy(update={"capture": {**first.capture, "tokens": 1}})
    other.write(file)
    with pytest.raises(InputError, match="is the report of another capture: name a new folder"):
        Bench(capture, [], [0], file, PLAN)
    file.write_text('{"fotmem_bench": 2}')
    with pytest.raises(InputError, match=r"is not a report of fotmem bench \(fotmem_bench: "):
        BenchReport.read(file)


def test_no_process_is_left_behind(capture: Capture, tmp_path: Path) -> None:
    before = processes()
    steps = Bench(capture, settings(["exact"]), [0], tmp_path / "report.json", PLAN).run()
    for step in steps:
        if "timing" in step.what:
            assert processes() > before
            break
    steps.close()
    assert processes() == before


def processes() -> set[int]:
    """Return the processes that were begun, without the server that began them."""
    own = psutil.Process()
    direct = {child.pid for child in own.children()}
    servers = {pid for pid in direct if "multiprocessing" in str(psutil.Process(pid).cmdline())}
    return {child.pid for child in own.children(recursive=True)} - servers


def test_a_report_goes_to_the_working_directory(
    capture: Capture,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--stores", "exact", "--top-k", "8", "--queries", 10, "--rounds", 2, "--threads", 1)
    ended = call(capsys, "bench", capture.directory, *given)
    assert ended.code == 0, ended.err
    folder = f"{capture.directory.name}-bench"
    assert f"{folder}/report.json" in ended.out
    assert {file.suffix for file in Path(folder).iterdir()} == {".json", ".png", ".html"}


def test_the_command(capture: Capture, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text("[zarr]\nnprobe = [8]\n")
    where = ("bench", capture.directory, "--out", tmp_path / "out")
    ended = call(
        capsys, *where, "--stores", "exact,zarr", "--grid", grid, "--top-k", "1,8",
        "--queries", 10, "--rounds", 2, "--threads", 1,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "top 1, one layer" in ended.out
    assert "│ zarr nprobe=8 │" in ended.out
    for ending in ("json", "png", "html"):
        assert str(tmp_path / "out" / f"report.{ending}") in ended.out.replace("\n", "")
        assert (tmp_path / "out" / f"report.{ending}").stat().st_size > 1000
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["rows"]) == 4
    for arguments, reason in (
        (("--stores", "exat"), "no store is named 'exat'"),
        (("--layers", "3"), "has layers [0], not 3"),
        (("--grid", tmp_path / "none"), "cannot be read"),
    ):
        assert reason in refusal(capsys, 1, *where, *arguments)
    assert "expected numbers such as" in refusal(capsys, 2, *where, "--top-k", "1,x")
    line = refusal(capsys, 1, "bench", tmp_path / "nothing", "--out", tmp_path / "out")
    assert "there is no capture at" in line


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
