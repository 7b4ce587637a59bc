"""A few attacks of each kind; ``make attack`` makes as many as time allows."""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attack import edit
from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, HELD
from tests.attack.run import Attacker
from tests.attack.target import Target
from tests.attack.worker import MEMORY_KINDS, STORE_KINDS

ROUNDS = 5
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    with Attacker(Target()) as attacker:
        yield attacker


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind == "flip" else pytest.param(kind, marks=pytest.mark.thorough)
        for kind in STORE_KINDS
    ],
)
def test_a_store_holds_under_attack(kind: str, attacker: Attacker) -> None:
    outcomes = {seed: attacker.attempt(kind, seed) for seed in range(ROUNDS)}
    found = {seed: str(each) for seed, each in outcomes.items() if each.kind == FOUND}
    assert not found


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.thorough) if kind == "compaction" else kind
        for kind in MEMORY_KINDS
    ],
)
def test_a_memory_survives_kills(kind: str, attacker: Attacker) -> None:
    """Ten of each kind; ``make crash-test`` kills as often as one likes."""
    outcome = attacker.attempt(kind, 0)
    assert outcome.kind == HELD, str(outcome)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(Target(), tmp_path_factory.mktemp("originals"))


@pytest.mark.thorough
@settings(max_examples=15)
@given(random=st.randoms(use_true_random=False))
def test_no_edited_manifest_gives_wrong_rows(random: Random, originals: Originals) -> None:
    """Like `edit`, but Hypothesis chooses the edits, and finds the simplest that fails."""
    with TemporaryDirectory() as folder:
        outcome = edit.attack(Target(), random, Path(folder), originals)
    assert outcome.kind != FOUND, str(outcome)
