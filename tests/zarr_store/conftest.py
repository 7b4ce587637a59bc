"""A store to attack, and files of somebody else."""

import shutil
from pathlib import Path

import pytest

from tests.zarr_store.stores import fill, opened


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fill a store, in all its parts: log, segments of two levels, tail, forgotten rows."""
    where = tmp_path_factory.mktemp("original") / "store"
    fill(where)
    with opened(directory=where) as store:
        store.forget(300)
    return where


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "store"))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return victim_in(tmp_path)


def victim_in(folder: Path) -> Path:
    """Make a folder of somebody else, with files that a store could take for its own."""
    where = folder / "victim"
    for name in ("letter.txt", "00000001/keys/c.0.0.0", "keys/zarr.json", "zarr.json"):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text("dear", "utf-8")
    return where
