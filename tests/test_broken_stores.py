"""The contract itself: the test that is for a fault catches it."""

import re
from collections import defaultdict
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

TESTS = {name for name in dir(StoreContract) if name.startswith("test_")}


class Outcomes:
    """A pytest plugin that records how tests ended."""

    def __init__(self) -> None:
        self.failed: dict[str, dict[str, str]] = defaultdict(dict)
        """By class and test: the message of the first case that failed."""
        self.passed: dict[str, set[str]] = defaultdict(set)
        self.errors: list[str] = []
        """Of fixtures."""

    def pytest_runtest_setup(self, item: pytest.Function) -> None:
        assert item.cls is not None
        if item.originalname in self.failed[item.cls.__name__]:
            pytest.skip("another case failed already")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kind, name = report.nodeid.partition("[")[0].split("::")[-2:]
        if report.when != "call" and report.failed:
            self.errors.append(f"{report.nodeid} {report.when}: {report.longrepr}")
        elif report.failed:
            message = report.longrepr.reprcrash.message  # type: ignore[union-attr]
            self.failed[kind][name] = message
        elif report.when == "call" and report.passed:
            self.passed[kind].add(name)


def contract_of(broken: Broken) -> type[StoreContract]:
    """Make the contract of a broken store, of only the tests that `Broken` names."""

    def make_store(self: StoreContract) -> StoreFactory:
        return broken.store

    others = TESTS - {broken.test, *broken.passes}
    fields: dict[str, Any] = dict.fromkeys(others) | {  # pytest collects no test that is None
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


def names_of(broken: Broken) -> list[str]:
    return [f"Test{broken.store.__name__}::{name}" for name in (broken.test, *broken.passes)]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Run the tests of each broken store that is asked for, all in one session of this process."""
    folder = tmp_path_factory.mktemp("broken")
    file = folder / "test_all.py"
    file.write_text(MODULE, encoding="utf-8")
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    given = [call.params.get("broken") for call in calls if call]
    asked = [broken for broken in given if isinstance(broken, Broken)]
    names = [f"{file}::{name}" for broken in asked for name in names_of(broken)]
    found, threads = Outcomes(), torch.get_num_threads()
    torch.set_num_threads(1)
    options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "-q", "--tb=short"]
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options += ["-p", "no:cacheprovider", "--noconftest", "-W", "error"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "STILL", 1)  # what is waited for here never comes
        pytest.main([*options, f"--basetemp={folder / 'files'}", *names], plugins=[found])
    torch.set_num_threads(threads)
    for over in Threaded.waiting:
        over.set()
    return found


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.store.__name__)
def test_a_broken_store_is_caught(broken: Broken, outcomes: Outcomes) -> None:
    """By the test that names its fault, and by no other one."""
    name = f"Test{broken.store.__name__}"
    failed = outcomes.failed[name]
    assert list(failed) == [broken.test]
    assert re.match(
        r"AssertionError: |tests\.broken_stores\.registry\.OnPurposeError: ", failed[broken.test]
    ), failed
    assert re.search(broken.message, failed[broken.test]), failed
    assert outcomes.passed[name] >= set(broken.passes)


def test_nothing_else_went_wrong(outcomes: Outcomes) -> None:
    assert not outcomes.errors, "\n".join(outcomes.errors)


def test_offsets_that_wrap_around_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 16 bits: with 32 the test would need 14 GiB."""
    for name, small in (("HEADS", 6), ("DIM", 64), ("TOKENS", 400), ("MEMORY", 0)):
        monkeypatch.setattr(larger, f"WIDE_{name}", small)
    look = larger.Larger().test_numbers_beyond_31_bits
    look(Stores(OffsetsWrapAround, EXACT))
    with pytest.raises(AssertionError, match="as if their offsets were kept in int32"):
        look(Stores(OffsetsWrapAroundIn16Bits, EXACT))


def test_every_test_of_the_contract_catches_something() -> None:
    """But those of what cannot be broken here, or is checked elsewhere."""
    caught = {broken.test for broken in BROKEN}
    assert TESTS - caught == {
        "test_only_the_bounds_are_changed",
        "test_declared_devices",
        "test_numbers_beyond_31_bits",
        "test_speed_beside_exact",  # never fails
        "test_tuned_equals_made_anew",  # needs a spec: see test_plugin_check.py
    }
    assert len(BROKEN) > 25
    assert len({broken.store.__name__ for broken in BROKEN}) == len(BROKEN)
    assert not [name for name in caught if not re.fullmatch(r"test_\w+", name) or name not in TESTS]
