"""Attack a persistent store: ``python -m tests.attack flip swap --seconds 600 --seed 1``."""

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence

import fotmem
from tests.attack.outcome import FOUND, HELD, REFUSED
from tests.attack.run import Attacker
from tests.attack.target import Target
from tests.attack.worker import KINDS, STORE_KINDS


def main(words: Sequence[str] | None = None) -> int:
    """Attack for a time, or a number of rounds; return 1 if a fault was found."""
    asked = options().parse_args(words)
    target = Target()
    if asked.store != target.store:
        exact = fotmem.available_stores()[asked.store].capabilities.exact
        target = Target(asked.store, json.loads(asked.options), exact, zips=False)
    # "edit" knows the format of zarr only, and memories have the format of their own.
    others = [kind for kind in STORE_KINDS if kind != "edit"]
    asked.kinds = asked.kinds or (KINDS if target == Target() else others)
    counts: Counter[tuple[str, str]] = Counter()
    try:
        attack(asked, target, counts)
    except KeyboardInterrupt:
        print("stopped")
    print(f"\n{'':12}{'tried':>8}{HELD:>8}{REFUSED:>9}{FOUND:>8}")
    for kind in asked.kinds:
        held, refused, found = (counts[kind, ended] for ended in (HELD, REFUSED, FOUND))
        print(f"{kind:12}{held + refused + found:8}{held:8}{refused:9}{found:8}")
    return int(any(ended == FOUND for _, ended in counts))


def options() -> argparse.ArgumentParser:
    """Declare the options of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"one of {', '.join(KINDS)}; default: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first attack of each kind")
    parser.add_argument("--rounds", type=int, help="number of attacks of each kind, one seed each")
    parser.add_argument("--seconds", type=float, default=60, help="time, if --rounds is not given")
    parser.add_argument("--store", default="zarr", help="name of a persistent store")
    parser.add_argument(
        "--options", default="{}", help="options of a store other than zarr, as JSON"
    )
    return parser


def attack(asked: argparse.Namespace, target: Target, counts: Counter[tuple[str, str]]) -> None:
    """Attack with one kind after the other, again and again."""
    end = time.monotonic() + asked.seconds
    with Attacker(target) as attacker:
        for number in itertools.count():
            for kind in asked.kinds:
                if number == asked.rounds or (asked.rounds is None and time.monotonic() > end):
                    return
                seed = asked.seed + number
                outcome = attacker.attempt(kind, seed)
                counts[kind, outcome.kind] += 1
                if outcome.kind == FOUND:
                    print(f"{kind} --seed {seed} --rounds 1: {outcome}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
