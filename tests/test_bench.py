"""Stores are measured on a capture: in processes, with a report that is complete and continued."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from fotmem.errors import InputError
from fotmem.measure.bench.all_keys import all_keys_figures
from fotmem.measure.bench.figures import captured_truth
from fotmem.measure.bench.process import StoreFailedError, Worker
from fotmem.measure.bench.report import BenchReport
from fotmem.measure.bench.run import Bench, Plan
from fotmem.measure.bench.store_bench import StoreBench
from fotmem.measure.bench.store_job import StoreJob
from fotmem.measure.capture import Capture, capture_random
from fotmem.measure.grid import Grid, settings
from fotmem.measure.setting import Setting
from fotmem.plugin import registry
from fotmem.stores import MemoryStore
from tests import bench_capture
from tests.bench_capture import TOKENS, naive
from tests.commands import call, refusal
from tests.plugins import hook, install

PLAN = Plan(top_k=(1, 4), queries=20, rounds=2, threads=1)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return bench_capture.make(tmp_path_factory.mktemp("capture") / "c")


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
    grid: Grid = {
        "faiss-ivf": {"nlist": [20], "nprobe": [1, 20], "values": ["mmap"]},
        "clusters": {"budget": [64], "values": ["mmap"]},
    }
    pytest.importorskip("faiss")
    file = tmp_path / "report.json"
    bench = Bench(
        capture, settings(["exact", "faiss-ivf", "zarr", "clusters"], grid), [0], file, PLAN
    )
    list(bench.run())
    report = BenchReport.read(file)
    assert report == bench.report
    assert not report.failures
    rows = {(str(row.setting), row.top_k): row for row in report.rows}
    assert len(rows) == len(report.rows) == 2 * (1 + 2 + 6 + 1)
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
    all_keys_are_attended_to(report)
    grown = {row.size: row for row in report.growth if row.setting.store == "exact"}
    assert sorted(grown) == [1024, TOKENS]
    assert grown[1024].recall.value == 1
    for row in report.rows:  # what was asked last while growing is what is asked when complete
        if row.top_k == 4:
            [last] = [g for g in report.growth if g.about == row.about and g.size == TOKENS]
            assert last.attention_mass_recall == row.attention_mass_recall


def all_keys_are_attended_to(report: BenchReport) -> None:
    """A store that estimates is compared with dense attention; one this small reads all keys."""
    assert [each.setting.store for each in report.all_keys] == ["exact", "clusters"]
    for row in report.all_keys:
        assert row.relative_latency
        assert (row.relative_latency.value == 1) == (row.setting.store == "exact")
        assert row.error.value < 1e-5
        assert row.share_read == 1
        assert 0 < row.latency_p50.value <= row.latency_p95.value
        assert row.relative_window_latency
        assert row.estimated_error == (None if row.setting.store == "exact" else 0)


def test_a_store_is_asked_what_it_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = 4500
    keys = capture_random(tmp_path / "c", tokens=tokens, queries=16, num_heads=2, head_dim=8)
    job = StoreJob(
        capture=str(keys.directory),
        layer=0,
        settings=(Setting(store="clusters", options={"budget": 64}),),
        queries=16,
        device="cpu",
        store_device="cpu",
        threads=None,
        sizes=(tokens,),
        top_k=4,
        costs=False,
    )
    with StoreBench(job, tmp_path / "store") as bench:
        list(bench.grow())
        out, estimated, share_read = bench.all_keys_answer(None)
        assert bench.singly(None, 0, 2)[0] > 0
        monkeypatch.setattr(type(bench.store), "tail_estimate", MemoryStore.tail_estimate)
        unknown = bench.all_keys_answer(None)  # as of a plugin that does not tell
        assert unknown.out.equal(out)
        assert unknown[1:] == (None, None)
    assert share_read is not None
    assert 64 / tokens < share_read < 0.3
    exact = captured_truth(keys, 0, tokens, keys.queries(0, tokens)[:, :16], top_k=4)
    assert estimated is not None
    found = all_keys_figures(out, estimated, exact)
    assert found.estimated_error is not None
    assert found.estimated_error == pytest.approx(float(estimated.mean()))
    assert 0.001 < found.error.value < found.estimated_error


@pytest.mark.thorough
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
