"""`fotmem select`: laws, limits, the choice among settings, and what is measured for it."""

import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fotmem
from fotmem.errors import InputError, MissingPackageError, OptionError, UnknownStoreError
from fotmem.measure.bench import process
from fotmem.measure.bench.store_job import StoreJob
from fotmem.measure.capture import Capture, capture_model, capture_random
from fotmem.measure.select import calibration, selector
from fotmem.measure.select import extrapolate as laws
from fotmem.measure.select.choice import Candidate, Selection, candidates
from fotmem.measure.select.limits import Limits, Prediction, violations
from fotmem.measure.select.predict import Cost, LayerQuality, SettingMeasurement, predict
from fotmem.measure.setting import Setting
from fotmem.plugin import registry
from tests import folders, tiny
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.commands import call, refusal
from tests.plugins import hook, install
from tests.tiny import one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_time_passes")

SIZES = [8192, 16384, 32768]


# Laws


def test_laws_continue_the_measurements() -> None:
    assert laws.amount(SIZES, [100 + 3.0 * n for n in SIZES])(2**20) == pytest.approx(
        100 + 3 * 2**20
    )
    rising = laws.shares([1], SIZES, [[0.01 * np.log(n) for n in SIZES]])
    assert rising(1, 2**20) == pytest.approx(0.01 * np.log(2**20))


def test_a_larger_memory_is_like_one_that_is_searched_with_less() -> None:
    """Oracle: a power of the size that effort must grow with, and what no effort finds."""
    efforts = [2.0**i for i in range(2, 10)]

    def missed(effort: float, tokens: int) -> float:
        within = float(np.interp(np.log2(effort) - np.log2(tokens / 2**15) / 2, [2, 9], [0.4, 0]))
        return within + 0.02 * float(np.log2(tokens / 2**12))

    law = laws.shares(efforts, SIZES, [[missed(each, n) for n in SIZES] for each in efforts])
    for effort in (16, 100, 512):
        for tokens in (2**14, 2**15, 2**17):
            assert law(effort, tokens) == pytest.approx(missed(effort, tokens), abs=2e-3)
    # With less effort than was tried, it goes on as between the two least.
    assert law(4, 2**17) == pytest.approx(0.1 + 0.4 + 0.4 / 7, abs=2e-3)


def searches(effort: float, power: float, idle: float = 0.0) -> laws.SearchCosts:
    """Read ``effort * 2 * N ** power`` keys for 3e-7 s each, and so many more for nothing."""
    read = [min(n, idle + effort * 2 * n**power) for n in SIZES]
    return laws.SearchCosts(SIZES, [2e-4 + 3e-7 * effort * 2 * n**power for n in SIZES], read)


@pytest.mark.parametrize("power", [0.0, 0.4, 0.5, 0.8])
@pytest.mark.parametrize("idle", [0.0, 1500.0])
def test_latency_is_that_of_the_keys_read_for_the_effort(power: float, idle: float) -> None:
    costs = laws.costs({effort: searches(effort, power, idle) for effort in (1.0, 0.5, 2.0)})
    for effort, law in costs.items():
        for tokens in (2**18, 2**20):
            expected = 2e-4 + 3e-7 * effort * 2 * tokens**power
            assert law(tokens) == pytest.approx(expected, rel=1e-6)


def test_an_effort_that_read_all_of_a_small_memory_does_not_read_all_of_a_large_one() -> None:
    """It reads as much more than the next one as it is greater."""
    costs = laws.keys_compared({effort: searches(effort, 0.4, 100) for effort in (4.0, 16.0, 1e3)})
    assert costs[16.0](2**20) == pytest.approx(16 * 2 * 2**8)
    assert costs[1e3](2**20) == pytest.approx(1e3 * 2 * 2**8)
    assert costs[1e3](2**10) == 2**10


def test_a_search_with_one_partial_size_grows_with_the_root() -> None:
    once = laws.SearchCosts(SIZES[:2], [1e-3, 2e-3], [8192.0, 12_000])
    assert laws.keys_compared({1.0: once})[1.0](2**20) == pytest.approx(12_000 * 2**3)


def test_a_search_that_always_read_all_reads_all() -> None:
    times = [1e-8 * n for n in SIZES]
    law = laws.costs({1.0: laws.SearchCosts(SIZES, times, [float(n) for n in SIZES])})[1.0]
    assert law(2**20) == pytest.approx(1e-8 * 2**20)


def test_the_latency_of_a_graph_grows_with_its_effort() -> None:
    """Not by what it takes in any case, as looking at hubs."""

    def seconds(effort: float, tokens: int) -> float:
        return 3e-4 + 1e-6 * effort * float(np.log1p(tokens / 128))

    timed = {
        effort: laws.SearchCosts(SIZES, [seconds(effort, size) for size in SIZES], None)
        for effort in (64.0, 32.0, 512.0)
    }
    for effort, law in laws.costs(timed).items():
        assert law(2**20) == pytest.approx(seconds(effort, 2**20))
    [alone] = laws.costs({64.0: timed[64.0]}).values()
    assert alone(2**20) > seconds(64, 2**20)
    odd = {effort: laws.SearchCosts(SIZES, [1e-3 / effort] * 3, None) for effort in (1.0, 2.0)}
    assert [law(2**20) > 1e-4 for law in laws.costs(odd).values()] == [True, True]


def test_an_effort_on_which_nothing_depends_tells_nothing() -> None:
    """The line through two efforts that read the same would leave no keys to count."""
    alike = {effort: laws.SearchCosts(SIZES, [1e-3] * 3, [500.0] * 3) for effort in (1.0, 2.0)}
    assert [law(2**20) for law in laws.keys_compared(alike).values()] == pytest.approx([500] * 2)
    assert [law(2**20) for law in laws.costs(alike).values()] == pytest.approx([1e-3] * 2)


def test_larger_sizes_count_more_for_latency() -> None:
    """The squares of what is off, each relative, count as much as there are tokens."""
    first, second = 1.0e-3, 1.1e-3
    timed = laws.SearchCosts([8192, 32_768], [first, second], [500.0] * 2)
    found = laws.costs({1.0: timed})[1.0](2**20)
    assert (found - first) / first**2 == pytest.approx(4 * (second - found) / second**2)


def test_costs_between_sizes_are_those_that_were_measured() -> None:
    times = [1e-3, 5e-3, 6e-3]
    predicted = laws.costs({1.0: laws.SearchCosts(SIZES, times, [100.0, 200.0, 300.0])})[1.0]
    assert [predicted(size) for size in SIZES] == pytest.approx(times)
    assert 1e-3 < predicted(12_000) < 5e-3
    assert predicted(100) == pytest.approx(1e-3)


def test_noise_makes_no_law_absurd() -> None:
    """Nothing gets cheaper as it grows, no share leaves 0 to 1, and nothing grows beyond N."""
    falling = laws.SearchCosts(SIZES, [3e-3, 2e-3, 1e-3], [3e3, 2e3, 1e3])
    assert 1e-3 <= laws.costs({1.0: falling})[1.0](2**20) <= 3e-3
    steep = laws.SearchCosts(SIZES, [1.0, 10.0, 100.0], [10.0, 100.0, 1000.0])
    assert laws.keys_compared({1.0: steep})[1.0](2**20) < 2**5 * 1000
    lower = {
        effort: laws.SearchCosts(SIZES, [1e-3] * 3, [read] * 3)
        for effort, read in ((1.0, 100.0), (2.0, 110.0), (4.0, 80.0))
    }
    assert laws.keys_compared(lower)[4.0](2**20) >= 1
    silent = laws.SearchCosts(SIZES, [1e-3] * 3, [0.0] * 3)
    assert 0.9e-3 <= laws.costs({1.0: silent, 2.0: silent})[2.0](2**20) < 1.0
    assert laws.shares([1], SIZES, [[0.3, 0.2, 0.1]])(1, 2**20) == pytest.approx(0.1)
    assert laws.shares([1], SIZES, [[0.3, 0.6, 0.9]])(1, 2**30) == 1
    noise = laws.shares([1, 2], SIZES, [[0.3, 0.2, 0.1], [0.3, 0.3, 0.2]])
    assert noise(1, 2**20) == pytest.approx(0.1)
    assert laws.amount(SIZES, [5e6, 4e6, 3e6])(2**20) > 0
    assert laws.amount(SIZES, [0.0, 0.0, 0.0])(2**20) == 0


def test_one_size_is_enough() -> None:
    assert laws.amount([8192], [0.5])(8192) == pytest.approx(0.5)
    graph = laws.costs({1.0: laws.SearchCosts([8192], [0.5], None)})[1.0]
    assert graph(8192) == pytest.approx(0.5)
    once = laws.costs({1.0: laws.SearchCosts([8192], [0.5], [100.0])})[1.0]
    assert once(8192) == pytest.approx(0.5)
    assert 0.5 <= once(2**20) < 0.5 * 2**7
    assert laws.shares([1, 2], [8192], [[0.5], [0.4]])(2, 8192) == pytest.approx(0.4)


def test_a_prediction_uses_the_mean_of_layers_and_the_budget() -> None:
    measured = SettingMeasurement(Setting(store="zarr", options={"ram": 50_000_000}), 50_000_000)
    for size in SIZES:
        measured.costs.append(Cost(size, 1e-3, 500.0, 1000.0 * size, 2000.0 * size))
        measured.quality += [LayerQuality(size, 17, 0.02, 0.1), LayerQuality(size, 20, 0.04, 0.2)]
    [predicted] = predict([measured], 10 * SIZES[-1], 3)
    assert predicted.error == pytest.approx(0.03)
    assert predicted.recall == pytest.approx(0.85)
    assert predicted.latency == pytest.approx(3e-3)
    assert predicted.disk == pytest.approx(3 * 2000 * 10 * SIZES[-1])
    assert predicted.ram == pytest.approx(3 * 50_000_000)  # not ten times 32 MB
    free = SettingMeasurement(
        Setting(store="exact"), costs=measured.costs, quality=measured.quality
    )
    several = candidates([measured, free], [predicted, predicted], Limits())
    assert [each.ram_is_budget for each in several] == [True, False]


def test_a_layer_with_fewer_sizes_grows_as_the_first() -> None:
    """By as much as the first; what misses less, by as much in square roots."""
    measured = SettingMeasurement(Setting(store="exact"))
    for size, error in zip(SIZES, (0.04, 0.06, 0.08), strict=True):
        measured.costs.append(Cost(size, 1e-3, None, 1000.0, 0.0))
        measured.quality.append(LayerQuality(size, 17, error, 2 * error))
    measured.quality.append(LayerQuality(SIZES[0], 18, 0.01, 0.02))
    measured.quality.append(LayerQuality(SIZES[0], 20, 0.4, 0.8))
    [predicted] = predict([measured], SIZES[-1], 3)
    less = 0.01**0.5 + 0.08**0.5 - 0.04**0.5
    assert predicted.error == pytest.approx((0.08 + less**2 + 0.44) / 3)
    assert predicted.recall == pytest.approx(1 - 2 * (0.08 + less**2 + 0.44) / 3)


def test_a_part_of_the_budget_stands_for_a_larger_memory_with_all_of_it() -> None:
    setting = Setting(store="zarr", options={"ram": 80_000_000})
    measured = SettingMeasurement(setting, 80_000_000, part=0.1)
    for size, error in zip(SIZES, (0.04, 0.06, 0.08), strict=True):
        measured.costs.append(Cost(size, 1e-3, 500.0, 1000.0 * size, 2000.0 * size))
        measured.quality.append(LayerQuality(size, 17, error, 2 * error))
    [predicted] = predict([measured], 10 * SIZES[-1], 1)
    assert predicted.error == pytest.approx(0.08)
    assert predicted.recall == pytest.approx(0.84)
    [twice] = predict([measured], 20 * SIZES[-1], 1)
    assert twice.error == pytest.approx(0.1)


def test_settings_that_differ_in_effort_are_fitted_together() -> None:
    """Alone, none of these would tell that a larger memory needs more effort."""
    efforts = (4, 8, 16, 32)
    measured = [
        SettingMeasurement(Setting(store="zarr", options={"nprobe": nprobe, "ram": ram}))
        for ram in (2**26, 2**27)
        for nprobe in efforts
    ]
    for each in measured:
        for size in SIZES:
            steps = np.log2(each.setting.options["nprobe"] / 4) - np.log2(size / SIZES[0])
            error = 0.4 - 0.1 * min(steps, 3) if each.setting.options["ram"] == 2**26 else 0.3
            each.costs.append(Cost(size, 1e-3, 500.0, 1000.0, 0.0))
            each.quality.append(LayerQuality(size, 17, error, error))
    predicted = predict(measured, 2 * SIZES[-1], 1)
    assert [each.error for each in predicted[:4]] == pytest.approx([0.7, 0.6, 0.5, 0.4])
    assert [each.error for each in predicted[4:]] == pytest.approx([0.3] * 4)


def test_latency_of_a_graph_among_repeated_keys_is_ignored() -> None:
    measured = SettingMeasurement(Setting(store="exact"))
    for size in (*SIZES, 2 * SIZES[-1]):
        latency = 9.0 if size > SIZES[-1] else 1e-4 * np.log(1 + size / 128)
        measured.costs.append(Cost(size, latency, None, 1000.0, 0.0))
    measured.quality += [LayerQuality(size, 17, 0.0, 0.0) for size in SIZES]
    for tokens in (SIZES[1], 2**20):
        [predicted] = predict([measured], tokens, 1)
        assert predicted.latency == pytest.approx(1e-4 * np.log(1 + tokens / 128))


# Limits and the choice

PREDICTED = {
    "small": Prediction(ram=1e9, disk=0, latency=30e-3, error=0.04, recall=0.9),
    "quick": Prediction(ram=4e9, disk=0, latency=5e-3, error=0.03, recall=0.95),
    "nearly": Prediction(ram=3e9, disk=0, latency=5.3e-3, error=0.03, recall=0.95),
    "right": Prediction(ram=6e9, disk=0, latency=200e-3, error=0.0, recall=1.0),
    "disk": Prediction(ram=1e8, disk=5e9, latency=90e-3, error=0.01, recall=0.99),
}


def selection(**limits: Any) -> Selection:
    bounds = Limits(**limits)
    candidates = tuple(
        Candidate(
            Setting(store=name), predicted, tuple(violations(bounds, predicted)), (17,), 2**15
        )
        for name, predicted in PREDICTED.items()
    )
    return Selection(2**20, 2**15, (17, 20), 32, bounds, candidates, {"gone": "needs it"}, {})


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ({}, "nearly"),  # as quick as "quick", or nearly, and smaller
        ({"ram": 2_000_000_000}, "small"),
        ({"ram": 2_000_000_000, "max_error": 0.02}, "disk"),
        ({"min_recall": 0.96}, "disk"),
        ({"min_recall": 0.995}, "right"),
        ({"disk": 1, "max_error": 0.02}, "right"),
        ({"latency": 0.0052}, "quick"),
    ],
)
def test_the_fastest_that_keeps_all_limits_is_chosen(limits: dict[str, Any], chosen: str) -> None:
    found = selection(**limits)
    assert found.choice is not None
    assert found.choice.setting.store == chosen
    assert found.advice == ""
    assert found.summary.startswith(f"{chosen}: ")


def test_each_rejected_store_has_a_reason() -> None:
    reasons = {each.setting.store: each.reason for each in selection(ram=2 * 2**30).candidates}
    assert reasons["small"] == reasons["disk"] == ""
    assert reasons["quick"] == "rejected: exceeds the RAM limit (3.7GiB, limit 2.0GiB)"
    both = selection(latency=0.02, min_recall=0.96).best_of_stores()
    latency, recall = both[0].reason.split("; ")
    assert latency == "rejected: exceeds the latency limit (30.00ms, limit 20.00ms)"
    assert recall == "is below the recall limit (0.900, limit 0.960)"


CURE = {"--ram": "ram", "--latency": "latency", "--max-error": "max_error",
        "--min-recall": "min_recall", "--disk": "disk"}  # fmt: skip


def relaxed(advice: str) -> dict[str, Any]:
    """Read the options that are proposed, as the command does."""
    words = advice.split()
    found: dict[str, Any] = {}
    for option, value in itertools.pairwise(word.rstrip(",") for word in words):
        if option in CURE:
            name = CURE[option]
            if name == "latency":
                found[name] = float(value.removesuffix("ms")) / 1000
            elif name in ("ram", "disk"):
                found[name] = selector._bytes(name, value)
            else:
                found[name] = float(value)
    return found


@pytest.mark.parametrize(
    "limits",
    [
        {"latency": 0.001},
        {"ram": 2_000_000_000, "latency": 0.01},
        {"ram": 50_000_000, "latency": 0.001, "min_recall": 0.999},
        {"max_error": 0.005, "latency": 0.1},
        {"min_recall": 0.97, "disk": 1_000_000, "latency": 0.15},
    ],
)
def test_relaxing_the_proposed_limit_is_enough(limits: dict[str, Any]) -> None:
    found = selection(**limits)
    assert found.choice is None
    assert found.summary == f"no store fits: {found.advice}"
    for way in found.advice.split("; or "):
        wider = selection(**(limits | relaxed(way)))
        assert wider.choice is not None, way
        [named] = [each for each in wider.candidates if f" {each.setting} fits" in way]
        assert named.fits, way


def test_impossible_limits_are_refused() -> None:
    for limits, reason in (
        ({"ram": 0}, "ram must be more than 0, got 0"),
        ({"latency": -1.0}, "latency must be more than 0"),
        ({"max_error": 1.5}, "max_error must be from 0 to 1, got 1.5"),
    ):
        with pytest.raises(OptionError, match=reason):
            Limits(**limits)


# Measuring

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
    from fotmem.measure.bench.store_bench import StoreBench

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


def test_stores_that_cannot_be_used_are_not_measured(capture: Capture) -> None:
    found = fotmem.select(capture, tokens=1000, stores=["exact"], persistent=True)
    assert found.excluded == {"exact": "its memory ends with the process"}
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
    [(4, 4), (100, 1)],  # if 20,000 take a second, a hundred times as many would take too long
)
def test_costs_are_those_of_a_budget_that_is_not_too_small(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, larger: int, costed: int
) -> None:
    """Both are as much smaller as what is held: with a small one, work is done in small pieces."""
    jobs: list[dict[str, Any]] = []

    def noted(**given: Any) -> StoreJob:
        jobs.append(given)
        return StoreJob(**given)

    monkeypatch.setattr(calibration, "StoreJob", noted)
    monkeypatch.setattr(calibration, "monotonic", itertools.count().__next__)
    monkeypatch.setattr(calibration, "LARGER", larger)
    monkeypatch.setattr(calibration, "SMALLEST", 1)
    calibrated = calibration.Calibration(
        capture, tokens=100 * TOKENS, top_k=4, device="cpu", threads=1, seconds=60
    )
    assert list(calibrated.run([IN_PART], lambda *_: None))
    assert [(job["sizes"], job["settings"][0].options["ram"], job["costs"]) for job in jobs] == [
        ((8192, 16_384, TOKENS), 1_000_000, False),
        ((costed * TOKENS,), costed * 1_000_000, True),
    ]
    [measured] = calibrated.measured
    assert measured.part == pytest.approx(0.01)
    assert [found.tokens for found in measured.quality] == [8192, 16_384, TOKENS]
    assert [cost.tokens for cost in measured.costs] == [costed * TOKENS]


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


# The file, and the command


def test_the_choice_is_written_and_attached(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    file = tmp_path / "fotmem.toml"
    predicted = PREDICTED["quick"]
    setting = Setting(store="faiss-ivf", options={"nprobe": 7})
    chosen = Candidate(setting, predicted, (), (17,), 2**15)
    Selection(2**20, 2**15, (17,), 32, Limits(), (chosen,), {}, {}).write(file)
    written = tomllib.loads(file.read_text())
    assert written["memory"] == {"store": "faiss-ivf", "options": {"nprobe": 7}}
    assert written["predicted"] == {"tokens": 2**20, "top_k": 32, **predicted._asdict()}
    model = tiny.llama()
    with fotmem.attach(model, config=file, layers=[1, 3], window=16) as memory:
        for store in memory.stores.values():
            assert type(store).__name__ == "IvfStore"
            assert store.options.nprobe == 7  # type: ignore[attr-defined]
    for given in ({"store": "exact"}, {"nprobe": 3}):
        with pytest.raises(OptionError, match=f"got also {next(iter(given))}"):
            fotmem.attach(model, config=file, layers=[1, 3], window=16, **given)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[memory", "is not TOML"),
        ("[memory]\n", "memory.store: Field required"),
        ("[memory]\nstore = 'exact'\ntop = 3\n", "memory.top: Extra inputs"),
        ("[memory]\nstore = 'exact'\n[other]\n", "other: Extra inputs"),
        ("", "memory: Field required"),
    ],
)
def test_a_file_that_is_something_else_is_named(content: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "fotmem.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=reason):
        fotmem.attach(tiny.llama(), config=file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        fotmem.attach(tiny.llama(), config=tmp_path / "none.toml")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(selector, "CAPTURED", 9000)
    monkeypatch.setattr(selector, "SECONDS", 5.0)
    folder = folders.write(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(folders.PROSE * (60_000 // len(folders.PROSE) + 1))
    out = tmp_path / "fotmem.toml"
    words = ["select", folder, "--tokens", "16k", "--stores", "exact", "--text", text]
    words += ["--window", 48, "--out", out]
    ended = call(capsys, *words, "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    assert found["choice"]["store"] == "exact"
    assert found["limits"]["max_error"] == 0.05
    assert tomllib.loads(out.read_text())["memory"] == {"store": "exact"}
    [kept] = (tmp_path / "cache/fotmem/captures").iterdir()
    before = {file: file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()}
    ended = call(capsys, *words, "--ram", "1B", "--latency", "1s")
    assert ended.code == 3
    assert "no store fits: with --ram" in ended.out
    for name in ("RAM, disk", "latency", "excess error", "recall"):
        assert f"\n{name}: " in ended.out
    after = {file: file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()}
    assert {f: t for f, t in after.items() if "zarr.json" not in f.name} == {
        f: t for f, t in before.items() if "zarr.json" not in f.name
    }
    line = refusal(capsys, 2, *words, "--latency", "soon")
    assert "expected a time such as 20ms, got 'soon'" in line


def test_asking_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = folders.write(tmp_path / "model", chat=True), tmp_path / "fotmem.toml"
    (tmp_path / "one.txt").write_text(folders.PROSE[:600])
    words = ["ask", folder, "Who?", "--text", tmp_path / "one.txt", "--window", 32]
    words += ["--max-new-tokens", 4, "--json"]
    file.write_text('[memory]\nstore = "zarr"\n[memory.options]\nram = "8MiB"\n')
    asked = call(capsys, *words, "--config", file)
    assert json.loads(asked.out)["answer"] == json.loads(call(capsys, *words).out)["answer"]
    for more in (["--store", "exact"], ["--option", "ram=8MiB"]):
        line = refusal(capsys, 2, *words, "--config", file, *more)
        assert f"it names the store, so {more[0]} is not allowed" in line
    file.write_text('[memory]\nstore = "zarr"\n[memory.options]\nrum = "8MiB"\n')
    assert "did you mean 'ram'" in refusal(capsys, 1, *words, "--config", file)


def test_a_file_sets_defaults_of_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = folders.write(tmp_path / "model", chat=True), tmp_path / "fotmem.toml"
    (tmp_path / "one.txt").write_text(folders.PROSE[:600])
    file.write_text(
        '[memory]\nstore = "exact"\nlayers = [0, 2]\ntop_k = "all"\nwindow = 40\n'
        'distance = 3\ndecay = 0.5\ntemperature = 2\ndtype = "bfloat16"\n'
    )
    memories: list[Any] = []

    def attach(*args: Any, **options: Any) -> Any:
        memories.append(fotmem.attach(*args, **options))
        return memories[-1]

    monkeypatch.setattr("fotmem.memory.attachment.attach", attach)
    words = ["ask", folder, "Who?", "--text", tmp_path / "one.txt", "--max-new-tokens", 2]
    for more in ([], ["--layers", "1", "--top-k", "9", "--window", 32, "--decay", "0"]):
        assert call(capsys, *words, "--config", file, *more).code == 0
    first, second = memories
    assert (first.layers, first.top_k, first.options.window) == ((0, 2), None, 40)
    assert (first.distance, first.decay, first.temperature, first.store(0).dtype) == (
        3,
        0.5,
        2,
        torch.bfloat16,
    )
    assert (second.layers, second.top_k, second.options.window) == ((1,), 9, 32)
    assert (second.distance, second.decay, second.temperature) == (3, 0, 2)
    file.write_text('[memory]\nstore = "exact"\nwindows = 3\n')
    assert "did you mean 'window'?" in refusal(capsys, 1, *words, "--config", file)
