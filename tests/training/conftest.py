"""A text and a model to train."""

from pathlib import Path

import pytest

from tests import folders
from tests.tiny import difference, one_thread  # noqa: F401 - a fixture
from tests.training.tuned import prose


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(prose(2000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write(tmp_path_factory.mktemp("model"))
