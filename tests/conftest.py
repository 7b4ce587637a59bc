"""What holds for all tests: the same examples at any load, no hub, no fake plugins left behind."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from fotmem.plugin.registry import registry
from tests.plugins import hook, install

if TYPE_CHECKING:
    from tests.s3_server import S3Server

# A shell starts what runs in the background without Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "always", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("always")

LONGEST = (
    "test_clusters_compiled.py",  # compiles for all others
    *("test_broken_stores.py", "test_stores.py", "test_decoders.py", "test_result.py"),
    *(
        "test_store_contract.py",
        "test_cli_process.py",
        "test_indexed_stores.py",
        "test_plugin_check.py",
    ),
    *("test_stopping.py", "test_docs.py", "test_select_measure.py", "test_checkpoints.py"),
    *("test_equality.py", "test_crashes.py", "test_full_disk.py", "test_scaffold.py"),
)
"""Files that take long come first: at the end, no process waits for another."""
BUILT_IN = {
    "fotmem_clusters",
    "fotmem_decoders",
    "fotmem_exact",
    "fotmem_faiss",
    "fotmem_hnsw",
    "fotmem_zarr",
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the inherited tests that a class leaves to `make test-all`."""
    if isinstance(item, pytest.Function) and item.originalname in getattr(item.cls, "thorough", ()):
        item.add_marker("thorough")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that take long first."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True)
def own_plugins_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget modules that a test wrote, and a registry that knows them."""
    before = set(sys.modules)
    yield
    temporary = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(temporary):
            del sys.modules[name]
    known = registry()
    if known.problems or set(known.owners.values()) != BUILT_IN:
        registry.cache_clear()


@pytest.fixture(scope="module")
def s3() -> "Iterator[S3Server]":
    """An S3 server on this machine, to which URLs of S3 lead."""
    from tests.s3_server import s3_server  # takes a second to import

    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a memory of random rows."""
    from tests.memory_rows import written

    return written(tmp_path_factory.mktemp("original") / "memory", 20)


@pytest.fixture
def memory(original: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(original, tmp_path / "memory"))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One plugin that cannot be imported, one whose package is missing, and a good one."""
    install(tmp_path, "broken", "raise RuntimeError('[bold]boom[/bold],\\n twice')")
    install(
        tmp_path, "poor", hook("[spec('absent', requires=('not_there',), install='pip it[all]')]")
    )
    install(tmp_path, "good", hook("[spec('good-store')]"))
    monkeypatch.syspath_prepend(tmp_path)
    registry.cache_clear()
    yield tmp_path
    registry.cache_clear()
