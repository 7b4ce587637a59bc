"""Edits a manifest so that it states what is not true, with a right checksum."""

import copy
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from fotmem.disk.manifest_file import checksum_of
from tests.attack.file_events import at_files
from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, HELD, Outcome, outcome_of
from tests.attack.target import FIRST, MANIFEST, ROWS, Target, files_of

HOW = ("replace", "replace", "near", "near", "of another", "remove", "twice", "order", "new")
SEALED = ("format", "version", "crc32c")
"""Fields that the checksum does not cover."""
NAMES = (
    "../../victim",
    "../victim",
    "{victim}",
    "",
    ".",
    "..",
    "/",
    "a\0b",
    "ü" * 300,
    "zarr.json",
    "00000099",
)
NUMBERS = (-1, 0, 1, 2, 7, 10**6, 2**31, 2**53 + 1, 2**63, 10**30, -(2**63))
OTHERS: tuple[Any, ...] = (
    None,
    True,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "1",
    [],
    {},
    [[]],
    [None],
    "../../victim",
)
MEMORY = 2**29
"""Most bytes that opening may take."""


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Open a store with an edited manifest, or with a link to a foreign folder in it."""
    store, victim = originals.copy(folder / "store"), folder / "victim"
    shutil.copytree(store / "log" / sorted((store / "log").iterdir())[0].name, victim)
    for number in range(3):
        shutil.copytree(victim, victim / f"{number:08d}")
    tried = link(store, victim, random) if random.random() < 0.2 else edit(store, victim, random)
    before = {name: (victim / name).read_bytes() for name in files_of(victim)}
    touched: list[str] = []

    def watch(event: str, path: str) -> None:
        if f"{Path(path).resolve()}/".startswith(f"{victim}/"):
            touched.append(f"{event} of {path}")

    with at_files(watch), bounded_memory():
        outcome = outcome_of(tried, lambda: use(target, store))
    if before != {name: (victim / name).read_bytes() for name in files_of(victim)}:
        return Outcome(FOUND, tried, f"a foreign folder was changed; {outcome.message}")
    if touched and outcome.kind == HELD:
        return Outcome(FOUND, tried, f"a foreign folder was reached: {touched[0]}")
    return outcome


def use(target: Target, directory: Path) -> None:
    """Read all rows of a store, then forget, add and flush."""
    with target.open(directory) as store:
        expect_suffix(target, store)
        store.forget(100)
        live = len(store)
        store.flush()
        target.read_on(
            store, rows=ROWS, forgotten=ROWS - live, upto=ROWS + 300, first=store.next_id - ROWS
        )


def expect_suffix(target: Target, store: Any) -> None:
    """Expect the newest rows; the manifest decides how many are forgotten, and the ids."""
    first = store.next_id - ROWS
    assert len(store) or first == FIRST, "opened without a row"
    target.expect(store, forgotten=ROWS - len(store), first=first)


def link(store: Path, victim: Path, random: Random) -> str:
    """Replace a folder or file of the store by a symbolic link to a foreign one."""
    names = [
        "log",
        "segments",
        "tail",
        *(p.relative_to(store).as_posix() for p in store.glob("*/*")),
    ]
    name = random.choice([*names, *files_of(store)])
    place = store / name
    if place.is_dir():
        shutil.rmtree(place)
        place.symlink_to(victim)
    else:
        shutil.move(place, victim / "file")
        place.symlink_to(victim / "file")
    return f"{name} is a link"


def edit(store: Path, victim: Path, random: Random) -> str:
    """Edit the manifest, and make its checksum right."""
    file = store / MANIFEST
    root = json.loads(file.read_text(encoding="utf-8"))
    attributes = root["attributes"]["fotmem"]
    tried = edited(attributes, victim, random)
    while random.random() < 0.3:
        tried += f", {edited(attributes, victim, random)}"
    content = {key: value for key, value in attributes.items() if key not in SEALED}
    if "crc32c" in attributes:
        log = json.loads((store / "log" / MANIFEST).read_text(encoding="utf-8"))
        attributes["crc32c"] = checksum_of(content, log["attributes"]["fotmem"]["store"])
    file.write_text(json.dumps(root), encoding="utf-8")
    return tried


def edited(attributes: dict[str, Any], victim: Path, random: Random) -> str:
    """Change one field of a manifest; return a description."""
    where, key, value = random.choice(list(leaves(attributes)))
    path = ".".join(map(str, where))
    holder: Any = attributes
    for step in where[:-1]:
        holder = holder[step]
    how = random.choice(HOW)
    if how == "remove":
        del holder[key]
        return f"remove {path}"
    if how == "new":
        attributes["another"] = value
    elif how == "of another":
        others = [other for *_, name, other in leaves(attributes) if name == key]
        holder[key] = copy.deepcopy(random.choice(others))
    elif how == "near" and isinstance(value, int):
        holder[key] = value + random.choice((-16, -1, 1, 16, value))
    elif how == "twice" and isinstance(value, list) and value:
        value.insert(random.randrange(len(value)), copy.deepcopy(random.choice(value)))
    elif how == "order" and isinstance(value, list):
        random.shuffle(value)
    else:
        alike = NAMES if isinstance(value, str) else NUMBERS if isinstance(value, int) else OTHERS
        new = random.choice(random.choice((alike, alike, OTHERS)))
        holder[key] = new.format(victim=victim) if isinstance(new, str) else new
    return f"{how} {path}, now {json.dumps(holder[key])[:80]}"


def leaves(part: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield the path, the key and the value of each field of a manifest."""
    steps = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in list(steps):
        yield (*where, key), key, value
        if isinstance(value, dict | list):
            yield from leaves(value, (*where, key))


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Limit the memory of this process to what it has now, and `MEMORY` more."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
