"""Every store of this repository keeps the contract, at its default bounds."""

import functools

import pytest
import torch

from fotmem import create_store
from fotmem.testing import StoreContract, StoreFactory


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def made(name: str, package: str) -> StoreFactory:
    pytest.importorskip(package)
    return functools.partial(create_store, name)


class TestExact(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("exact", "torch")


class TestFaissFlat(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-flat", "faiss")


class TestFaissIvf(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-ivf", "faiss")


class TestFaissIvfpq(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-ivfpq", "faiss")


class TestFaissHnsw(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("faiss-hnsw", "faiss")


class TestHnsw(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("hnsw", "hnswlib")


class TestZarr(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return made("zarr", "zarr")


class TestZarrWithLittleMemory(StoreContract):
    """So little that the large stores of the contract are searched on disk."""

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return functools.partial(create_store, "zarr", ram="8MiB")
