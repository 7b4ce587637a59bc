"""The choice of `fotmem select` among predicted settings, and its limits."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from fotmem.errors import OptionError
from fotmem.measure.select import selector
from fotmem.measure.select.choice import Candidate, Selection
from fotmem.measure.select.limits import Limits, Prediction, violations
from fotmem.measure.setting import Setting
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.tiny import one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_time_passes")

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


def test_of_settings_that_cost_the_same_the_better_is_chosen() -> None:
    found = selection()
    same = [
        replace(found.candidates[2], setting=Setting(store=str(error)), predicted=each)
        for error in (0.04, 0.01, 0.02)
        for each in [found.candidates[2].predicted._replace(error=error)]
    ]
    chosen = replace(found, candidates=tuple(same)).choice
    assert chosen is not None
    assert chosen.setting.store == "0.01"


def test_limits_of_attention_to_all_keys() -> None:
    predicted = Prediction(ram=1, disk=0, latency=1, error=0.2, recall=1, estimated_error=0.3)
    [found] = violations(Limits(max_error=0.1), predicted, all_keys=True)
    assert found.reason == "exceeds the error limit (0.200, limit 0.100)"


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
