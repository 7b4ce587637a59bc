"""What `fotmem select` measures on a capture."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.errors import InputError, MissingPackageError, OptionError, UnknownStoreError
from fotmem.measure.bench import process, store_bench
from fotmem.measure.bench.kept_rows import directory_bytes
from fotmem.measure.bench.store_bench import StoreBench
from fotmem.measure.bench.store_job import StoreJob
from fotmem.measure.capture import Capture, capture_model, capture_random
from fotmem.measure.select import calibration, selector
from fotmem.measure.select.limits import Limits
from fotmem.measure.setting import Setting
from fotmem.plugin import registry
from tests import tiny
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.plugins import hook, install
from tests.tiny import one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_time_passes")

TOKENS, HEADS, DIM = 20_000, 2, 8


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return capture_random(
        tmp_path_factory.mktemp("capture") / "c",
        tokens=TOKENS,
        queries=64,
        num_heads=HEADS,
        head_dim=DIM,
        mismatch=0.5,
    )


BROKEN = """
def failing(**arguments):
    raise OSError('there is no disk')

def slow(**arguments):
    from pathlib import Path
    from threading import Event
    store = build(**arguments)
    add = store.add_rows
    def wait(keys, values):
        if len(store) > 6000:  # not yet when it is tried
            Path(__file__).with_name('asleep').touch()
            Event().wait()
        add(keys, values)
    store.add_rows = wait
    return store

def dying(**arguments):
    import os
    store = build(**arguments)
    add = store.add_rows
    def die(keys, values):
        if len(store) > 17000:  # not at the first sizes
            os._exit(5)
        add(keys, values)
    store.add_rows = die
    return store
""" + hook(
    "[spec('failing', factory=failing), spec('slow', factory=slow), spec('dying', factory=dying)]"
)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    install(tmp_path, "broken_stores_of_select", BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.registry.cache_clear()
    yield
    monkeypatch.undo()
    registry.registry.cache_clear()


def test_stores_are_measured_and_predicted(
    capture: Capture, broken: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    asleep = tmp_path / "broken_stores_of_select" / "asleep"
    monkeypatch.setattr(process, "monotonic", lambda: 1e9 if asleep.exists() else 0.0)
    steps: list[str] = []
    found = fotmem.select(
        capture,
        tokens=2 * TOKENS,
        top_k=8,
        stores=["failing", "dying", "exact", "faiss-ivf", "slow"],
        max_error=0.9,
        threads=1,
        seconds=20,
        step=steps.append,
    )
    assert found.excluded == {
        "failing": "OSError: there is no disk",
        "dying": "its process ended with code 5",
        "slow": found.excluded["slow"],
    }
    assert "8,192 tokens were not added" in found.excluded["slow"]
    assert "exact, layer 0" in steps
    assert {each.setting.store for each in found.candidates} == {"exact", "faiss-ivf"}
    by_setting = {str(each.setting): each for each in found.candidates}
    exact = by_setting["exact"].predicted
    assert exact.error == pytest.approx(0, abs=1e-5)
    assert exact.recall == pytest.approx(1)
    held = 2 * TOKENS * 2 * HEADS * DIM * 4
    assert 0.5 * held < exact.ram < 20 * held  # so small that the process's own memory counts
    few, many = (by_setting[f"faiss-ivf nprobe={nprobe}"].predicted for nprobe in (4, 128))
    assert few.recall < many.recall
    assert few.error > many.error
    assert found.choice is not None
    assert found.as_dict()["choice"]["store"] == found.choice.setting.store
    json.dumps(found.as_dict())


def test_quality_is_measured_on_all_layers(tmp_path: Path) -> None:
    """Layers differ: an error of the first says little about the others."""
    pytest.importorskip("faiss")
    of_three = capture_model(
        tiny.llama(num_hidden_layers=3, max_position_embeddings=64),
        tiny.ids(1200)[0].tolist(),
        tmp_path / "c",
        tokens=1024,
        queries=32,
        layers=[0, 1, 2],
        window=32,
    )
    ivf = fotmem.select(of_three, tokens=1024, top_k=4, stores=["faiss-ivf"], threads=1, seconds=20)
    exact = fotmem.select(of_three, tokens=1024, top_k=4, stores=["exact"], threads=1, seconds=20)
    assert {each.layers for each in ivf.candidates} == {(0, 1, 2)}
    assert all(each.predicted.latency > 0 for each in ivf.candidates)
    assert [each.layers for each in exact.candidates] == [(0,)]


def test_keys_beyond_the_capture_cost_as_much_as_new_ones(capture: Capture) -> None:
    """Keys come again, each moved: none is a copy, and half of them are new to no list."""
    job = StoreJob(
        capture=str(capture.directory),
        layer=0,
        settings=(Setting(store="exact"),),
        queries=8,
        device="cpu",
        store_device="cpu",
        threads=1,
        sizes=(16_384, 30_000),
        top_k=4,
    )
    with StoreBench(job, capture.directory) as bench:
        small, large = bench.grow()
        ids = torch.arange(30_000).expand(HEADS, 1, -1)
        keys = bench.store.keys(ids)[:, 0]
    assert (small.size, large.size) == (16_384, 30_000)
    assert small.settings[0].answer is not None
    assert large.settings[0].answer is None
    again = keys[:, TOKENS:]
    moved = again - keys[:, : 30_000 - TOKENS]
    assert torch.equal(keys[:, :TOKENS], capture.rows(0).keys)
    assert float(moved.std() / keys.std()) == pytest.approx(calibration_moved(), rel=0.1)
    assert (moved.abs().amax(2) > 0).all()


def test_at_every_size_the_same_queries_are_answered(capture: Capture) -> None:
    """Others, from elsewhere in the text, would be taken for what a larger memory does."""
    calibrated = calibration.Calibration(
        capture, tokens=TOKENS, top_k=4, device="cpu", threads=1, seconds=20
    )
    assert list(calibrated.run([Setting(store="exact")], lambda *_: None))
    judged = calibrated.measured[0].quality
    assert [found.tokens for found in judged] == [8192, 16_384, TOKENS]
    asked = capture.spread_queries(0, calibration.QUERIES)
    for found in judged:
        assert torch.equal(calibrated._exact(0, found.tokens).queries, asked)
        assert found.error == pytest.approx(0, abs=1e-5)


def test_adding_the_capture_may_use_the_time_of_other_layers(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "FIRST", 0.0)
    monkeypatch.setattr(calibration, "LEAST", 0.0)
    calibrated = calibration.Calibration(
        capture, tokens=4 * TOKENS, top_k=4, device="cpu", threads=1, seconds=30
    )
    assert list(calibrated.run([Setting(store="exact")], lambda *_: None))
    [measured] = calibrated.measured
    assert [found.tokens for found in measured.quality] == [8192, 16_384, TOKENS]
    assert max(cost.tokens for cost in measured.costs) == TOKENS


def calibration_moved() -> float:
    from fotmem.measure.bench.store_bench import MOVED

    return MOVED


def test_a_small_capture_is_enough(tmp_path: Path) -> None:
    small = capture_random(tmp_path / "c", tokens=1500, queries=8, num_heads=1, head_dim=4)
    found = fotmem.select(small, tokens=1500, stores=["exact"], threads=1, seconds=5)
    assert found.choice is not None
    assert found.choice.measured_tokens == 1500


@pytest.mark.thorough
def test_the_message_to_a_script_without_a_guard(capture: Capture, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import fotmem\n"
        "from fotmem.measure.capture import Capture\n"
        f"capture = Capture.open({str(capture.directory)!r})\n"
        "found = fotmem.select(capture, tokens=8000, stores=['exact'], seconds=3600)\n"
        "print(found.excluded['exact'])"
    )
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert told.stdout == (
        "its process ended with code 1 before it began; "
        'a script must call this under if __name__ == "__main__":\n'
    )


def test_any_store_opens_a_memory_that_is_kept(tmp_path: Path) -> None:
    """What counts as disk is what the memory's directory keeps: keys, values, and the index."""
    pytest.importorskip("faiss")
    small = capture_random(tmp_path / "c", tokens=6000, queries=8, num_heads=1, head_dim=16)
    with fotmem.create_store("faiss-ivf", num_heads=1, head_dim=16) as store:
        store.add(*small.rows(0, 0, 6000))
        saved = store.save_index()
    assert saved is not None
    index = sum(array.nbytes for array in saved.arrays.values())
    found = fotmem.select(
        small, tokens=6000, stores=["exact", "faiss-ivf", "zarr"], persistent=True, threads=1
    )
    assert found.excluded == {}
    disks = {each.setting.store: each.predicted.disk for each in found.candidates}
    rows = 6000 * (2 * 16 * 4 + 0.5)
    assert disks["exact"] == pytest.approx(rows, rel=0.01)
    assert disks["faiss-ivf"] == pytest.approx(rows + index, rel=0.05)
    assert disks["zarr"] >= rows
    found.write(tmp_path / "fotmem.toml")
    assert "for a memory in a directory" in (tmp_path / "fotmem.toml").read_text("utf-8")


@pytest.mark.parametrize("store", ["exact", "faiss-ivf", "zarr"])
def test_what_stays_in_the_directory_of_a_memory_is_no_ram(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """Whether a store looks up rows there is tried: with its whole budget, not a part of it."""
    if not fotmem.available_stores()[store].available:
        pytest.skip(fotmem.available_stores()[store].reason)
    part, whole = ({"ram": ram} if store == "zarr" else {} for ram in ("1MiB", "256MiB"))
    tokens, row = 8192, 2 * HEADS * DIM * 4
    job = StoreJob(
        capture=str(capture.directory),
        layer=0,
        settings=(Setting(store=store, options=part),),
        queries=8,
        device="cpu",
        store_device="cpu",
        threads=1,
        sizes=(tokens,),
        top_k=4,
        opened=Setting(store=store, options=whole),
    )
    needed = iter([1000, 1000 + 10**8])
    monkeypatch.setattr(store_bench, "resident", lambda: next(needed))
    with StoreBench(job, tmp_path) as bench:
        [found] = bench.grow()
        assert bench.leaves_rows == (store != "exact")
        assert found.disk == directory_bytes(bench.store) >= tokens * row
    left = tokens * row
    assert (10**8 - found.ram == left) == (store == "faiss-ivf")
    assert 0 <= 10**8 - found.ram <= left
    if store == "exact":
        assert found.ram == 10**8


def test_stores_that_cannot_be_used_are_not_measured(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selector, "_missing", lambda name: "needs it")
    found = fotmem.select(capture, tokens=1000, stores=["exact"])
    assert found.excluded == {"exact": "needs it"}
    assert found.choice is None
    assert found.advice == "no store could be measured"
    with pytest.raises(InputError, match="nothing to write"):
        found.write("fotmem.toml")


def test_a_store_with_a_budget_gets_its_share_of_the_limit() -> None:
    zarr = Setting(store="zarr", options={"nprobe": 8})
    assert selector._budgeted(zarr, Limits(ram=6 * 10**7), 3).options == {
        "nprobe": 8,
        "ram": 2 * 10**7,
    }
    assert selector._budgeted(zarr, Limits(ram=10**12), 3) == zarr
    assert selector._budgeted(zarr, Limits(), 3) == zarr
    exact = Setting(store="exact")
    assert selector._budgeted(exact, Limits(ram=10), 3) == exact


@pytest.mark.thorough
def test_a_budget_is_as_much_smaller_as_the_capture(capture: Capture) -> None:
    """Or the store would hold everything in memory, and seem to be exact."""
    found = fotmem.select(
        capture, tokens=40 * TOKENS, ram="400MiB", stores=["zarr"], threads=1, seconds=10
    )
    recalls = {each.setting.options["nprobe"]: each.predicted.recall for each in found.candidates}
    assert recalls[4] < 0.999
    assert all(each.predicted.ram == 256 * 2**20 for each in found.candidates)


IN_PART = Setting(store="zarr", options={"ram": 100_000_000})


@pytest.mark.parametrize(
    ("larger", "costed"),
    [
        pytest.param(4, 4, marks=pytest.mark.thorough),
        (100, 1),
    ],  # if 20,000 take a second, a hundred times as many would take too long
)
def test_costs_are_those_of_a_budget_that_is_not_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, larger: int, costed: int
) -> None:
    """Both are as much smaller as what is held: with a small one, work is done in small pieces."""
    jobs: list[dict[str, Any]] = []
    few = 8500
    small = capture_random(tmp_path / "c", tokens=few, queries=8, num_heads=1, head_dim=4)

    def noted(**given: Any) -> StoreJob:
        jobs.append(given)
        return StoreJob(**given)

    monkeypatch.setattr(calibration, "StoreJob", noted)
    monkeypatch.setattr(calibration, "monotonic", itertools.count().__next__)
    monkeypatch.setattr(calibration, "LARGER", larger)
    monkeypatch.setattr(calibration, "SMALLEST", 1)
    calibrated = calibration.Calibration(
        small, tokens=100 * few, top_k=4, device="cpu", threads=1, seconds=60, kept=True
    )
    assert list(calibrated.run([IN_PART], lambda *_: None))
    assert [(job["sizes"], job["settings"][0].options["ram"], job["costs"]) for job in jobs] == [
        ((8192, few), 1_000_000, False),
        ((costed * few,), costed * 1_000_000, True),
    ]
    assert [job["opened"] for job in jobs] == [IN_PART] * 2  # a memory is opened with all of it
    [measured] = calibrated.measured
    assert measured.part == pytest.approx(0.01)
    assert [found.tokens for found in measured.quality] == [8192, few]
    assert [cost.tokens for cost in measured.costs] == [costed * few]


def test_a_store_without_costs_in_time_is_not_predicted(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow = calibration.Calibration._grow

    def judging_only(self: calibration.Calibration, *given: Any, **named: Any) -> float:
        return 0.0 if named["costs"] else grow(self, *given, **named)

    monkeypatch.setattr(calibration.Calibration, "_grow", judging_only)
    failed: list[str] = []
    calibrated = calibration.Calibration(
        capture, tokens=10 * TOKENS, top_k=4, device="cpu", threads=1, seconds=60
    )
    steps = calibrated.run([IN_PART], lambda _, told: failed.append(told))
    assert list(steps) == ["zarr, layer 0"]
    assert failed == ["80,000 tokens were not added in 60 s"]
    assert calibrated.measured == []


def test_wrong_use_is_refused(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"tokens": 0}, OptionError, "tokens must be at least 1, got 0"),
        ({"ram": "4 apples"}, OptionError, "ram must be a number of bytes, such as 4GiB, got"),
        ({"device": "tpu"}, OptionError, "device must be cpu"),
        ({"stores": ["exat"]}, UnknownStoreError, "did you mean 'exact'"),
    ]
    for options, error, reason in wrong:
        with pytest.raises(error, match=reason):
            fotmem.select(capture, **{"tokens": 1000, **options})
    monkeypatch.setattr("fotmem.errors.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"needs psutil.*fotmem\[bench\]"):
        fotmem.select(capture, tokens=1000)


def test_attention_to_all_keys_is_compared_with_dense_attention(tmp_path: Path) -> None:
    few = capture_random(tmp_path / "c", tokens=9000, queries=32, num_heads=HEADS, head_dim=DIM)
    given: dict[str, Any] = {"top_k": "all", "stores": "exact,clusters,zarr", "max_error": 0.5}
    found = fotmem.select(few, tokens=9000, threads=1, seconds=10, **given)
    assert found.top_k is None
    assert found.excluded == {"zarr": "does not estimate: it reads all keys, as exact does"}
    dense, *clusters = found.candidates
    assert dense.predicted.error < 1e-5
    assert dense.predicted.estimated_error is None
    options = [each.setting.options for each in clusters]
    assert {some["budget"] for some in options} == {4096, 32_768}
    by_target = {
        some["target_error"]: each.predicted
        for some, each in zip(options, clusters, strict=True)
        if some["budget"] == 32_768
    }
    errors = [by_target[target].error for target in (0.05, 0.1, 0.2, 0.4)]
    expected = [by_target[target].estimated_error for target in (0.05, 0.1, 0.2, 0.4)]
    assert 0 < errors[0] < errors[-1] < 0.5
    assert expected == sorted(expected)  # type: ignore[type-var]
    assert found.as_dict()["top_k"] is None
    with pytest.raises(OptionError, match="with all keys, give max_error"):
        fotmem.select(few, tokens=9000, top_k="all", min_recall=0.9)
