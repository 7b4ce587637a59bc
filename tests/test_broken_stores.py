"""The contract itself: every broken store is caught, by the test that is for it."""

import re
from typing import Any

import pytest
import torch

from fotmem.testing import StoreContract, StoreFactory
from fotmem.testing.store import waiting
from fotmem.testing.store.stores import Stores
from fotmem.testing.store.subjects import larger
from tests.broken_stores import BROKEN, Broken
from tests.broken_stores.independence import Threaded
from tests.broken_stores.larger import OffsetsWrapAround, OffsetsWrapAroundIn16Bits
from tests.broken_stores.registry import EXACT


class Outcomes:
    """A pytest plugin that keeps what failed, and how."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.others: list[str] = []

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.parent is not None and item.parent.name in self.failed:
            pytest.skip("caught already")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[0].rpartition("::")[2]
        if report.when == "call" and report.failed:
            self.failed.setdefault(name, report.longrepr.reprcrash.message)  # type: ignore[union-attr]
        elif report.when != "call" and report.failed:
            self.others.append(f"{report.nodeid} {report.when}: {report.longrepr}")


def contract_of(broken: Broken) -> type[StoreContract]:
    def make_store(self: StoreContract) -> StoreFactory:
        return broken.store

    fields: dict[str, Any] = {
        "make_store": pytest.fixture(make_store),
        "capabilities": broken.capabilities,
        "large": broken.large,
        "__test__": True,
    }
    return type(f"Test{broken.store.__name__}", (StoreContract,), fields)


MODULE = """
from tests.test_broken_stores import BROKEN, contract_of
globals().update({f"Test{broken.store.__name__}": contract_of(broken) for broken in BROKEN})
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Run each broken store's one test, all in one session of pytest in this process."""
    folder = tmp_path_factory.mktemp("broken")
    file = folder / "test_all.py"
    file.write_text(MODULE, encoding="utf-8")
    names = [f"{file}::Test{broken.store.__name__}::{broken.test}" for broken in BROKEN]
    found, threads = Outcomes(), torch.get_num_threads()
    torch.set_num_threads(1)
    options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "-q", "--tb=short"]
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options += ["-p", "no:cacheprovider", "--noconftest", "-W", "error"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "STILL", 1)  # who waits here waits for a store that is broken
        pytest.main([*options, f"--basetemp={folder / 'files'}", *names], plugins=[found])
    torch.set_num_threads(threads)
    for over in Threaded.waiting:
        over.set()
    return found


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.store.__name__)
def test_a_broken_store_is_caught(broken: Broken, outcomes: Outcomes) -> None:
    message = outcomes.failed.get(f"Test{broken.store.__name__}")
    assert message is not None, f"{broken.test} did not fail"
    assert re.match(
        r"AssertionError: |tests\.broken_stores\.registry\.OnPurposeError: ", message
    ), message
    assert re.search(broken.told, message), message


def test_nothing_else_went_wrong(outcomes: Outcomes) -> None:
    assert not outcomes.others


def test_offsets_that_wrap_around_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here with 16 bits, of which 14 GiB would be needed with 32."""
    for name, small in (("HEADS", 6), ("DIM", 64), ("TOKENS", 400), ("MEMORY", 0)):
        monkeypatch.setattr(larger, f"WIDE_{name}", small)
    look = larger.Larger().test_numbers_beyond_31_bits
    look(Stores(OffsetsWrapAround, EXACT))
    with pytest.raises(AssertionError, match="as if their offsets were kept in int32"):
        look(Stores(OffsetsWrapAroundIn16Bits, EXACT))


def test_every_test_of_the_contract_catches_something() -> None:
    """But those of what cannot be broken here, or is checked elsewhere."""
    every = {name for name in dir(StoreContract) if name.startswith("test_")}
    caught = {broken.test for broken in BROKEN}
    assert every - caught == {
        "test_only_the_bounds_are_changed",
        "test_declared_devices",
        "test_numbers_beyond_31_bits",
        "test_speed_beside_exact",  # never fails
    }
    assert len(BROKEN) > 25
    assert len({broken.store.__name__ for broken in BROKEN}) == len(BROKEN)
    assert not [name for name in caught if not re.fullmatch(r"test_\w+", name) or name not in every]
