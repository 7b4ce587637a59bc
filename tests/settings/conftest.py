"""A store that finds some keys only, and few samples."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fotmem.plugin import registry
from tests.plugins import install
from tests.settings.sparse import SPARSE
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Install `sparse`; returns the salts of its stores whenever one gets its first keys."""
    install(tmp_path, "sparse_stores", SPARSE)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.registry.cache_clear()
    spec = registry.available_stores()["sparse"]
    yield spec.load().__globals__["SparseStore"].built
    monkeypatch.undo()
    registry.registry.cache_clear()


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of many take long."""
    monkeypatch.setattr("fotmem.measure.bench.figures.RESAMPLED", 50)
