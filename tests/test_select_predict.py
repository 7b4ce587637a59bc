"""What `fotmem select` predicts from its measurements."""

import numpy as np
import pytest

from fotmem.measure.select.choice import candidates
from fotmem.measure.select.limits import Limits
from fotmem.measure.select.predict import Cost, LayerQuality, SettingMeasurement, predict
from fotmem.measure.setting import Setting
from tests.clock import no_time_passes  # noqa: F401 - a fixture
from tests.tiny import one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_time_passes")

SIZES = [8192, 16384, 32768]


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


def test_a_smaller_target_is_more_effort_and_estimated_errors_are_predicted() -> None:
    """As for attention to all keys: with less than the smallest target, errors are no larger."""
    targets = (0.4, 0.2, 0.1)
    measured = [
        SettingMeasurement(Setting(store="clusters", options={"target_error": target}))
        for target in targets
    ]
    for each, target in zip(measured, targets, strict=True):
        for size in SIZES:
            each.costs.append(Cost(size, 1e-3, 500 / target, 1000.0, 0.0))
            each.quality.append(LayerQuality(size, 17, target / 2, 0.0, target))
    efforts = [each.effort()[1] for each in measured]
    assert efforts == sorted(efforts)
    predicted = predict(measured, 4 * SIZES[-1], 1)
    assert [each.error for each in predicted] == pytest.approx([0.2, 0.1, 0.05])
    assert [each.estimated_error for each in predicted] == pytest.approx(targets)
    assert [each.recall for each in predicted] == [1, 1, 1]
    measured[0].quality[0] = measured[0].quality[0]._replace(estimated=None)
    assert predict(measured, SIZES[0], 1)[1].estimated_error is None


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
