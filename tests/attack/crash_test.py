"""Kill processes that work on memories: ``python -m tests.attack.crash_test 10000``."""

import itertools
import sys

from tests.attack.memory_crash import KILLS
from tests.attack.outcome import FOUND
from tests.attack.run import Attacker
from tests.attack.target import Target
from tests.attack.worker import MEMORY_KINDS

EVERY = 500
"""Kills after which a line is printed."""


def main(kills: int, first: int = 0) -> int:
    """Kill processes, with seeds from `first` on; return 1 if a fault is found."""
    faults = done = 0
    attempts = ((kind, seed) for seed in itertools.count(first) for kind in MEMORY_KINDS)
    with Attacker(Target()) as attacker:
        while done < kills:
            kind, seed = next(attempts)
            outcome = attacker.attempt(kind, seed)
            done += KILLS
            if outcome.kind == FOUND:
                faults += 1
                print(f"python -m tests.attack {kind} --seed {seed} --rounds 1: {outcome}")
            if done % EVERY == 0:
                print(f"{done:,} kills so far, {faults} faults", flush=True)
    print(f"{done:,} kills, {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
