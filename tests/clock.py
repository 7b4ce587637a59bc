"""A clock that stands still: how long a store takes depends on what else the machine does."""

import pytest

from fotmem.measure.bench import process
from fotmem.measure.select import calibration


@pytest.fixture
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no store be too slow for `fotmem.select`, unless a test says so."""
    for module in (process, calibration):
        monkeypatch.setattr(module, "monotonic", lambda: 0.0)
