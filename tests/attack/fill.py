"""The disk is full, broken or read-only, or no file can be opened any more, from a moment on."""

import gc
from collections.abc import Callable
from pathlib import Path
from random import Random

from fotmem.errors import StorageError
from fotmem.stores import MemoryStore
from tests.attack import troubles
from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, HELD, REFUSED, Outcome, outcome_of
from tests.attack.state import State
from tests.attack.target import MOST, Target, data, strays
from tests.attack.troubles import Trouble


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Let trouble begin while a store is opened, or while it is written to."""
    with troubles.own_disk(folder / "disk") as mounted:
        directory = originals.copy(folder / "disk" / "store")
        if random.random() < 0.4:
            outcome = opening(target, directory, troubles.draw(random, 20, disk=mounted))
        else:
            outcome = writing(target, directory, troubles.draw(random, 400, disk=mounted), random)
        gc.collect()  # errors hold stores, too
        if outcome.kind != FOUND and (left := strays(directory)):
            return Outcome(FOUND, outcome.tried, f"left: {', '.join(left[:3])}")
    return outcome


def opening(target: Target, directory: Path, trouble: Trouble) -> Outcome:
    """What cannot be written can be read; what cannot be read is named; all is well afterwards."""
    tried = f"opened with {trouble}"
    with trouble.begun(directory):
        outcome = outcome_of(tried, lambda: target.look(directory), [trouble.reason])
    if outcome.kind == REFUSED and trouble.readable:
        return Outcome(FOUND, tried, f"not opened, though it can be read: {outcome.told}")
    gc.collect()
    after = outcome_of(f"{tried}; when it is over", lambda: target.look(directory))
    return after if after.kind != HELD else outcome


def writing(target: Target, directory: Path, trouble: Trouble, random: Random) -> Outcome:
    """What was flushed is there again; what was added stays, or the error says what to do."""
    tried, errors = f"written with {trouble}", list[str]()
    outcome = outcome_of(tried, lambda: errors.extend(write(target, directory, trouble, random)))
    if outcome.kind == HELD and errors:
        return Outcome(REFUSED, tried, errors[0])
    if outcome.kind == REFUSED:
        return Outcome(FOUND, tried, f"when it is over: {outcome.told}")
    return outcome


def write(target: Target, directory: Path, trouble: Trouble, random: Random) -> list[str]:
    """Write through the trouble, try again when it is over, and reopen; return what was told."""
    store, errors = target.open(directory), list[str]()
    possible = [State.of(store)]
    with trouble.begun(directory):
        for _ in range(12):
            before, told = State.of(store), refusal(lambda: step(store, random, possible))
            if told:
                assert trouble.reason in told, f"not named as {trouble.reason!r}: {told}"
                assert State.of(store) == before, f"half done: {before}, now {State.of(store)}"
                errors.append(told)
        if trouble.readable:
            target.expect(store, **State.of(store)._asdict())
    now = State.of(store)
    target.expect(store, **now._asdict())
    told = refusal(store.flush)
    assert "open the store again" in told or not told, f"does not go on: {told}"
    if not told:
        possible = [now]
    refusal(store.close)
    del store  # with its lock, if it could not be closed
    gc.collect()
    with target.open(directory) as store:
        found = State.of(store)
        assert found in possible, f"reopened with {found}, not {possible}"
        upto = min(found.rows + 200, MOST)
        target.read_on(store, rows=found.rows, forgotten=found.forgotten, upto=upto)
    return errors


def refusal(call: Callable[[], object]) -> str:
    """Make a call; return what it was refused with, or nothing."""
    try:
        call()
    except StorageError as error:
        return str(error)
    return ""


def step(store: MemoryStore, random: Random, possible: list[State]) -> None:
    """Add, forget or flush; keep track of what may be on disk."""
    keys, values = data()
    state = State.of(store)
    match random.choice(("add", "add", "add", "flush", "flush", "forget")):
        case "add":
            end = min(state.rows + random.randrange(1, 300), MOST)
            store.add(keys[:, state.rows : end], values[:, state.rows : end])
        case "forget":
            store.forget(random.randrange(len(store) // 3 + 1))
        case _:
            possible.append(state)
            store.flush()
            possible[:] = [state]
