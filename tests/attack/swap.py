"""Puts intact files into wrong places."""

import functools
import re
import shutil
from collections import defaultdict
from pathlib import Path
from random import Random

from tests.attack.originals import Originals
from tests.attack.outcome import HELD, Outcome
from tests.attack.target import EARLIER, MANIFEST, Target, files_of

HOW = ("files", "files", "arrays", "folders", "earlier", "other")


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Exchange two files or folders of a kind, or take one from an earlier or another store."""
    store, how = originals.copy(folder / "store"), random.choice(HOW)
    if how in ("earlier", "other"):
        name = foreign(originals.store, getattr(originals, how), random)
        put(getattr(originals, how) / name, store / name)
        tried, names = f"{name} of the {how} one", [name]
        mend = functools.partial(put, originals.store / name, store / name)
    else:
        names = pair(store, how, random)
        tried = f"exchange {' and '.join(names)}"
        one, two = (store / name for name in names)
        mend = functools.partial(exchange, one, two, folder / "aside")
        mend()
    if names == [MANIFEST]:  # the error may name what it does not fit
        return originals.judged(tried, store, [""], mend, functools.partial(look_back, target))
    packed = target.zips and random.random() < 0.2
    look = originals.look_into_zip if packed else target.look
    outcome = originals.judged(f"{tried}{' in a zip file' * packed}", store, names, mend, look)
    if outcome.kind == HELD and any(map(originals.matters, names)):
        return originals.unnoticed(outcome)
    return outcome


def pair(store: Path, how: str, random: Random) -> list[str]:
    """Choose two files, arrays or folders of one kind that differ."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for name in files_of(store):
        parts = name.split("/")
        if how == "files":  # of keys and values, too
            kinds[re.sub(r"\d+|keys|values", "#", name)].add(name)
        elif how == "arrays" and len(parts) > 3:
            kinds[parts[0]].add("/".join(parts[:3]))
        elif how == "folders" and len(parts) > 2:
            kinds[parts[0]].add("/".join(parts[:2]))
    several = [sorted(names) for names in kinds.values() if len(names) > 1]
    if not several:  # a store without folders
        return pair(store, "files", random)
    while True:
        names = random.sample(random.choice(several), 2)
        if how != "files" or differ(*(store / name for name in names)):
            return names


def foreign(store: Path, source: Path, random: Random) -> str:
    """Choose a file, an array or a folder that both stores have and that differs."""
    theirs = set(files_of(source))
    files = [name for name in files_of(store) if name in theirs]
    changed = [name for name in files if differ(store / name, source / name)]
    if random.random() < 0.2 and MANIFEST in theirs:
        return MANIFEST
    parts = random.choice(changed).split("/")
    return "/".join(parts[: random.choice((2, 3, 9))])


def differ(one: Path, two: Path) -> bool:
    """Whether two files differ."""
    return one.read_bytes() != two.read_bytes()


def exchange(one: Path, two: Path, aside: Path) -> None:
    """Exchange two files or folders."""
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def put(source: Path, place: Path) -> None:
    """Replace a file or folder by a copy of another."""
    if place.is_dir():
        shutil.rmtree(place)
    if source.is_dir():
        shutil.copytree(source, place)
    else:
        place.write_bytes(source.read_bytes())


def look_back(target: Target, store: Path) -> None:
    """Check a store whose manifest may be an earlier one: it holds the rows of then or of now."""
    with target.open(store) as opened:
        then = opened.next_id - opened.first_id == EARLIER - 166
        target.expect(opened, **({"rows": EARLIER} if then else {}))
