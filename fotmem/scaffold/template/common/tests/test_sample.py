"""The store keeps the contract of fotmem."""

import functools

import pytest

import fotmem
from fotmem.testing import StoreContract, StoreFactory


class TestSampleStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return functools.partial(fotmem.create_store, "sample")
