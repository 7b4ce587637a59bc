"""Every store of this repository passes the contract, at its default bounds."""

import functools
from typing import ClassVar

import pytest
import torch

from fotmem import create_store
from fotmem.testing import StoreContract, StoreFactory
from fotmem.testing.store.subjects.large import Large


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


TIMES = {"test_speed_beside_exact"}
"""Tests that report times, and never fail."""
HUGE = {
    "test_recall_of_a_huge_store",
    "test_look_ups_of_a_huge_store",
    "test_adding_stays_as_quick",
}
"""Tests of 66,000 keys, which a graph takes long to index."""
SHARED = {
    "test_temporaries_of_search",
    "test_temporaries_of_attend",
    "test_no_copy_of_all_keys",
    "test_index_while_adding",
}
"""Tests of code that stores with an index share: of these, `TestFaissIvf` runs them."""
LARGE = {name for name in vars(Large) if name.startswith("test_")} - {"test_tuning"}
"""Tests of 20,000 keys."""
ALL = {name for name in dir(StoreContract) if name.startswith("test_")}
OWN = {
    "test_any_order_of_calls",
    "test_equal_to_brute_force",
    "test_search_among_ids",
    "test_start_at",
    "test_indexed_scores",
    "test_indexed_copies",
    "test_indexed_loading",
    "test_tuned_equals_made_anew",
}
"""Tests that see what a store has of its own, where `TestFaissIvf` or `TestHnsw` has its base."""


class OurStore(StoreContract):
    thorough: ClassVar[set[str]] = TIMES
    """Tests that only `make test-all` runs."""


def made(name: str, package: str) -> StoreFactory:
    pytest.importorskip(package)
    return functools.partial(create_store, name)


class TestExact(OurStore):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("exact", "torch")


class TestClusters(OurStore):
    thorough = (
        ALL - OWN - {"test_recall", "test_large_attention", "test_an_estimated_tail"} | SHARED
    )

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("clusters", "torch")


class TestFaissFlat(OurStore):
    thorough = ALL - OWN | SHARED

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-flat", "faiss")


class TestFaissIvf(OurStore):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-ivf", "faiss")


class TestFaissIvfpq(OurStore):
    thorough = ALL - LARGE - OWN | HUGE | SHARED

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-ivfpq", "faiss")


class TestFaissHnsw(OurStore):
    thorough = ALL - OWN | SHARED

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-hnsw", "faiss")


class TestHnsw(OurStore):
    thorough = TIMES | HUGE | SHARED | {"test_recall_among_ids"}

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("hnsw", "hnswlib")


class TestZarr(OurStore):
    thorough = TIMES | HUGE

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("zarr", "zarr")


class TestZarrWithLittleMemory(OurStore):
    """So little that the large stores of the contract are searched on disk."""

    thorough = ALL - LARGE

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return functools.partial(create_store, "zarr", ram="8MiB")
