"""Presses Ctrl-C at some line of a call: the call is done as a whole, or not at all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import torch

import fotmem
from fotmem import Memory
from fotmem.stores import MemoryStore
from fotmem.testing.store.interrupting import count_lines, stopped
from fotmem.testing.store.naive import draw
from tests import tiny
from tests.attack.originals import Originals
from tests.attack.outcome import FOUND, HELD, Outcome, outcome_of
from tests.attack.state import State
from tests.attack.target import DIM, FIRST, HEADS, Target, data

IN_MEMORY = (
    Target("exact", {}),
    Target("faiss-flat", {}),
    Target("faiss-ivf", {"nlist": 8}, exact=False),
    Target("faiss-ivfpq", {"nlist": 8}, exact=False),
    Target("faiss-hnsw", {}, exact=False),
    Target("hnsw", {}, exact=False),
)
"""Stores that are attacked too, without a directory."""
CALLS: dict[str, Callable[[MemoryStore], object]] = {
    "forget": lambda store: store.forget(min(70, len(store))),
    "flush": lambda store: store.flush(),
    "search": lambda store: store.search(draw(HEADS, 3, DIM), 9),
    "attend": lambda store: store.attend(draw(HEADS, 3, DIM), top_k=9, scale=0.3),
    "copy": lambda store: store.copy().close(),
    "close": lambda store: store.close(),
}


def attack(target: Target, random: Random, folder: Path, originals: Originals) -> Outcome:
    """Interrupt a call of a store or of a memory."""
    moment = random.random()
    if random.random() < 0.3:
        call = random.choice(list(MEMORY_CALLS))
        tried = f"memory.{call} interrupted after {moment:.4f} of its lines"
        return must_hold(tried, lambda: interrupt_memory(call, moment))
    available = fotmem.available_stores()
    several = [each for each in IN_MEMORY if available[each.store].available]
    aim = random.choice([*several, target, target])
    place = folder if aim is target and random.random() < 0.7 else None
    call, rows = random.choice(["add", "add", "add", *CALLS]), random.choice((0, 40, 400, 900))
    tried = f"{call} of {aim.store} with {rows} rows{' on disk' * bool(place)}"
    tried += f" interrupted after {moment:.4f} of its lines"
    return must_hold(tried, lambda: interrupt_store(aim, place, call, rows, moment))


def must_hold(tried: str, attempt: Callable[[], object]) -> Outcome:
    """Make an attempt that must not be refused."""
    outcome = outcome_of(tried, attempt)
    return outcome if outcome.kind == HELD else replace(outcome, kind=FOUND)


def interrupted(call: Callable[[], object], same: Callable[[], object], moment: float) -> bool:
    """Make a call with Ctrl-C at some line; return whether `KeyboardInterrupt` was raised.

    `same` is an equal call, whose lines are counted.
    """
    error = stopped(call, int(moment * count_lines(same))).error
    if error is not None and not isinstance(error, KeyboardInterrupt):
        raise error
    return error is not None


def interrupt_store(
    target: Target, folder: Path | None, name: str, rows: int, moment: float
) -> None:
    """Interrupt a call, check the store, and continue."""
    keys, values = data()
    directory = folder and folder / "store"
    store, twin = opened(target, directory, rows), opened(target, folder and folder / "twin", rows)
    before = State(rows, 0)
    after = {"add": State(rows + 150, 0), "forget": State(rows, min(70, rows))}.get(name, before)

    def add(store: MemoryStore) -> None:
        store.add(keys[:, rows : rows + 150], values[:, rows : rows + 150])

    call = CALLS.get(name, add)
    heard = interrupted(lambda: call(store), lambda: call(twin), moment)
    twin.close()
    upto = rows
    if name != "close":
        now, allowed = State.of(store), {before, after} if heard else {after}
        assert now in allowed, f"{now} rows after {before}, to become {after}"
        target.expect(store, rows=now.rows, forgotten=now.forgotten)
        if now != after:
            call(store)
        upto = after.rows + 200
        target.read_on(store, rows=after.rows, forgotten=after.forgotten, upto=upto)
    store.close()
    if directory:
        with target.open(directory) as store:
            target.expect(store, rows=upto, forgotten=after.forgotten)


def opened(target: Target, directory: Path | None, rows: int) -> MemoryStore:
    """Open a store, and add rows."""
    keys, values = data()
    store = target.open(directory)
    store.start_at(FIRST)
    for start in range(0, rows, 100):
        end = min(start + 100, rows)
        store.add(keys[:, start:end], values[:, start:end])
    return store


FIRST_READ, NEXT_READ = 20, 60


def temporarily(memory: Memory) -> None:
    """Read another text and drop it."""
    with memory.temporarily():
        memory.read(tiny.ids(30, seed=7))


MEMORY_CALLS: dict[str, Callable[[Memory], object]] = {
    "read": lambda memory: memory.read(tiny.ids(NEXT_READ, seed=1)),
    "use": lambda memory: memory.use("zarr"),
    "replace": lambda memory: memory.replace(4, 9, tiny.ids(20, seed=2)),
    "temporarily": temporarily,
    "clear": lambda memory: memory.clear(),
}


def attached() -> Memory:
    """Attach a memory to a tiny model and read a text."""
    memory = fotmem.attach(tiny.llama(), layers=tiny.LAYERS, window=tiny.WINDOW)
    memory.read(tiny.ids(FIRST_READ))
    return memory


def interrupt_memory(name: str, moment: float) -> None:
    """Interrupt a call; all layers and tokens must be as before or as after it."""
    call = MEMORY_CALLS[name]
    memory, before, after = attached(), attached(), attached()
    heard = interrupted(lambda: call(memory), lambda: call(after), moment)
    same = after if not heard or len(memory) != len(before) else before
    if name == "read":  # it reads window by window
        kept = len(memory) - FIRST_READ
        assert kept in [*range(0, NEXT_READ, tiny.WINDOW), NEXT_READ], f"{kept} tokens were kept"
        same = attached()
        if kept:
            same.read(tiny.ids(NEXT_READ, seed=1)[:, :kept])
    expect_same(memory, same)
    for each in (memory, same):
        each.read(tiny.ids(40, seed=3))
    expect_same(memory, same)


def expect_same(memory: Memory, other: Memory) -> None:
    """Expect two memories to hold the same tokens, keys and values."""
    assert torch.equal(memory.tokens, other.tokens), f"{len(memory)} tokens, not {len(other)}"
    for layer in tiny.LAYERS:
        mine, theirs = memory.store(layer), other.store(layer)
        assert mine.next_id == theirs.next_id == len(mine), f"layer {layer}: {len(mine)} rows"
        for one, two in zip(tiny.contents(mine), tiny.contents(theirs), strict=True):
            assert torch.equal(one, two), f"layer {layer} holds other rows"
