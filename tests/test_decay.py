"""What was read longer ago counts for less."""

import math

import pytest
import torch

from fotmem.decay import age_bias


@pytest.mark.parametrize(
    ("age", "weight"),
    [(1, 1), (10, 1), (20, 1 / 4), (45, 1 / 20.25), (640, 1 / 4096), (10**7, 1 / 4096)],
)
def test_weights_are_a_power_of_the_windows_since(age: int, weight: float) -> None:
    bias = age_bias(2.0, 10, 10**7 + 5, 0.5)
    assert bias is not None
    found = bias(torch.tensor([[10**7 + 5 - age]]))
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32
    assert math.exp(0.5 * float(found)) == pytest.approx(weight, rel=1e-5)


def test_without_decay_there_is_no_bias() -> None:
    assert age_bias(0.0, 10, 100, 0.5) is None
