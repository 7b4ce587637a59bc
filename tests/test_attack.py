"""A little of each kind of attack; ``make attack`` goes on for as long as one likes."""

from collections.abc import Iterator

import pytest

from tests.attack.outcome import FOUND
from tests.attack.run import Attacker
from tests.attack.target import Target
from tests.attack.worker import KINDS

ROUNDS = 5


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    with Attacker(Target()) as attacker:
        yield attacker


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_holds_under_attack(kind: str, attacker: Attacker) -> None:
    outcomes = {seed: attacker.attempt(kind, seed) for seed in range(ROUNDS)}
    found = {seed: str(each) for seed, each in outcomes.items() if each.kind == FOUND}
    assert not found
