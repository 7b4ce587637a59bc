"""The contract, kept by stores that are right, and what it asks of a test class."""

import ast
import functools
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import fotmem
from fotmem.errors import OptionError
from fotmem.plugin import StoreCapabilities
from fotmem.testing import StoreContract, StoreFactory
from fotmem.testing.store.stores import Stores, promised
from fotmem.testing.store.subjects.damage import Damage
from fotmem.testing.store.subjects.large import Large
from fotmem.testing.store.subjects.persistence import Persistence
from tests.plain_stores import DiskStore, PlainStore

EXACT = StoreCapabilities(exact=True)
ALL = {name for name in dir(StoreContract) if name.startswith("test_")}
OF_ITS_OWN = {name for kind in (Persistence, Damage, Large) for name in dir(kind)} - {
    "test_a_second_process_in_the_same_directory"
}
"""Tests that `DiskStore` runs in `make test`; `TestPlainStore` or `TestZarr` run the others."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class TestPlainStore(StoreContract):
    thorough: ClassVar[set[str]] = {"test_speed_beside_exact"}  # it never fails
    capabilities = EXACT

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return PlainStore


class TestDiskStore(StoreContract):
    """An approximate store lowers its bounds, and nothing else."""

    thorough: ClassVar[set[str]] = ALL - OF_ITS_OWN
    capabilities = StoreCapabilities(exact=False, persistent=True)
    min_recall = 0.25
    min_mass = 0.25

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        return DiskStore


class Overridden(StoreContract):
    capabilities = EXACT

    def test_best_first(self, stores: Stores) -> None:
        pass


class Shameless(StoreContract):
    min_recall = 0.0


class Modest(StoreContract):
    min_recall = 0.5
    capabilities = EXACT


@pytest.mark.parametrize("kind, told", [(Overridden, "test_best_first"), (Shameless, "min_recall")])
def test_only_bounds_may_be_changed(kind: type[StoreContract], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        kind().test_only_the_bounds_are_changed()
    Modest().test_only_the_bounds_are_changed()


def test_what_a_store_promises_is_in_its_spec_however_it_is_made() -> None:
    exact = fotmem.available_stores()["exact"].capabilities
    assert promised(functools.partial(fotmem.create_store, "exact"), None) is exact
    assert promised(lambda **layer: fotmem.create_store("exact", **layer), exact) is exact
    with pytest.raises(OptionError, match="capabilities must be those of the spec"):
        promised(functools.partial(fotmem.create_store, "exact"), EXACT)
    assert promised(PlainStore, EXACT) is EXACT
    with pytest.raises(OptionError, match=r"set `capabilities = fotmem\.plugin\.StoreCapabilities"):
        promised(PlainStore, None)


def test_a_class_without_a_factory_raises_an_error_that_names_it() -> None:
    make_store = StoreContract.__dict__["make_store"]
    with pytest.raises(NotImplementedError, match="StoreContract needs a fixture make_store"):
        make_store.__wrapped__(StoreContract())


def test_it_fails_under_optimisation_too() -> None:
    """`python -O` drops assertions: the contract has none."""
    for module in (Path(fotmem.__file__).parent / "testing").rglob("*.py"):
        tree = ast.parse(module.read_text("utf-8"))
        allowed = {"check.py"}  # not part of it
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert module.name in allowed or not found, module
