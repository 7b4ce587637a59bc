"""Damages a file: flips bits, cuts or extends its end, empties or removes it."""

import functools
from pathlib import Path
from random import Random

from tests.attack.originals import Originals
from tests.attack.outcome import HELD, Outcome
from tests.attack.target import Target, files_of

HOW = ("flip", "cut", "grow", "zero", "empty", "remove")


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Damage one file of a store: the error must name it, or all answers must be right."""
    store = originals.copy(folder / "store")
    name = random.choice(files_of(store))
    before = (store / name).read_bytes()
    how = random.choice(HOW if before else ("grow", "remove"))
    after = damaged(before, how, random)
    if after is None:
        (store / name).unlink()
    else:
        (store / name).write_bytes(after)
    mend = functools.partial((store / name).write_bytes, before)
    packed = target.zips and random.random() < 0.2
    outcome = originals.judged(
        f"{how} {name}{' in a zip file' * packed}",
        store,
        [name],
        mend,
        originals.look_into_zip if packed else target.look,
    )
    if outcome.kind == HELD and originals.matters(name) and after != before:
        return originals.unnoticed(outcome)
    return outcome


def damaged(content: bytes, how: str, random: Random) -> bytes | None:
    """Return the damaged content; None if the file is removed."""
    if how == "flip":
        changed = bytearray(content)
        for _ in range(random.choice((1, 1, 2, 9))):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        return bytes(changed)
    if how == "cut":
        return content[: random.randrange(len(content))]
    if how == "grow":
        return content + random.randbytes(random.choice((1, 4, 300)))
    if how == "zero":
        start = random.randrange(len(content))
        stop = min(len(content), start + random.choice((1, 16, 10**6)))
        return content[:start] + bytes(stop - start) + content[stop:]
    return b"" if how == "empty" else None
