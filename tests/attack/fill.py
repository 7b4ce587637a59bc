"""From some moment on the disk is full, broken or read-only, or no file can be opened."""

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
    """Let trouble begin while a store is opened, or while it is written."""
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
    """The store can be read if its files can; otherwise the trouble is named. Later it opens."""
    tried = f"opened with {trouble}"
    with trouble.begun(directory):
        outcome = outcome_of(tried, lambda: target.look(directory), [trouble.reason])
    if outcome.kind == REFUSED and trouble.readable:
        return Outcome(FOUND, tried, f"not opened, though it can be read: {outcome.message}")
    gc.collect()
    after = outcome_of(f"{tried}; when it is over", lambda: target.look(directory))
    return after if after.kind != HELD else outcome


def writing(target: Target, directory: Path, trouble: Trouble, random: Random) -> Outcome:
    """Flushed rows are there again; added rows stay, or the error states the cure."""
    tried, errors = f"written with {trouble}", list[str]()
    outcome = outcome_of(tried, lambda: errors.extend(write(target, directory, trouble, random)))
    if outcome.kind == HELD and errors:
        return Outcome(REFUSED, tried, errors[0])
    if outcome.kind == REFUSED:
        return Outcome(FOUND, tried, f"when it is over: {outcome.message}")
    return outcome


def write(target: Target, directory: Path, trouble: Trouble, random: Random) -> list[str]:
    """Write during the trouble, try again when it is over, and reopen; return the messages."""
    store, errors = target.open(directory), list[str]()
    possible = write_through(target, store, directory, trouble, random, errors)
    del store  # with its lock, if it could not be closed
    gc.collect()
    reopen(target, directory, possible)
    return errors


def write_through(
    target: Target,
    store: MemoryStore,
    directory: Path,
    trouble: Trouble,
    random: Random,
    errors: list[str],
) -> list[State]:
    """Write during the trouble, and close when it is over; return what the disk may hold."""
    possible = [State.of(store)]
    with trouble.begun(directory):
        for _ in range(12):
            before, message = State.of(store), refusal(lambda: step(store, random, possible))
            if message:
                assert trouble.reason in message, f"not named as {trouble.reason!r}: {message}"
                assert State.of(store) == before, f"half done: {before}, now {State.of(store)}"
                errors.append(message)
        if trouble.readable:
            target.expect(store, **State.of(store)._asdict())
    now = State.of(store)
    target.expect(store, **now._asdict())
    message = refusal(store.flush)
    assert "open the store again" in message or not message, f"does not go on: {message}"
    if not message:
        possible = [now]
    refusal(store.close)
    return possible


def reopen(target: Target, directory: Path, possible: list[State]) -> None:
    """Open a store in one of the states that the disk may hold, and continue."""
    with target.open(directory) as store:
        found = State.of(store)
        assert found in possible, f"reopened with {found}, not {possible}"
        upto = min(found.rows + 200, MOST)
        target.read_on(store, rows=found.rows, forgotten=found.forgotten, upto=upto)


def refusal(call: Callable[[], object]) -> str:
    """Make a call; return the message of its `StorageError`, or an empty text."""
    try:
        call()
    except StorageError as error:
        return str(error)
    return ""


def step(store: MemoryStore, random: Random, possible: list[State]) -> None:
    """Add, forget or flush; update the states that the disk may hold."""
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
