"""Decay and temperature of remembered keys."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from fotmem.memory.decay import scale_and_bias
from fotmem.memory.options import MemoryOptions
from fotmem.stores import MemoryStore


def options(**changes: Any) -> MemoryOptions:
    """Return options with a window of 10 tokens."""
    chosen: dict[str, Any] = {"window": 10, "last_context_length": 5, "split_above": 10, **changes}
    return MemoryOptions(longest=64, dtype=torch.float32, **chosen)


def holding(tokens: int) -> MemoryStore:
    """Return a store that seems to hold this many."""
    return cast(MemoryStore, SimpleNamespace(next_id=tokens))


@pytest.mark.parametrize(
    ("age", "weight"),
    [
        (1, 1),
        (10, 1),
        (20, 1 / 4),
        (45, 1 / 20.25),
        (80, 1 / 64),
        (160, 1 / 1024),
        (5120, 2**-30),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_weights_are_a_power_of_the_age_in_windows(
    age: int, weight: float, temperature: float
) -> None:
    how = options(decay={3: 2.0}, temperature=temperature)
    scale, bias = scale_and_bias(holding(10**7 + 5), 3, 0.5, how)
    assert scale == 0.5 / temperature
    assert bias is not None
    found = bias(torch.tensor([[10**7 + 5 - age]]))
    assert found.shape == (1, 1)
    assert found.dtype == torch.float32
    assert math.exp(scale * float(found)) == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("window", [256, 700, 2048, 8192])
def test_a_text_ages_as_quickly_in_long_windows(window: int) -> None:
    how = replace(options(decay=1.0), longest=8192, window=window, split_above=window)
    _, bias = scale_and_bias(holding(10**6), 3, 1.0, how)
    assert bias is not None
    found = bias(10**6 - torch.tensor([1, 256, 512, 2048, 64 * 256, 800 * 256])).exp()
    assert found.tolist() == pytest.approx([1, 1, 1 / 2, 1 / 8, 1 / 512, 1 / 80_000])


def test_without_decay_there_is_no_bias() -> None:
    assert scale_and_bias(holding(100), 0, 0.5, options()) == (0.5, None)
    assert scale_and_bias(holding(100), 0, 0.5, options(decay={3: 2.0})) == (0.5, None)
