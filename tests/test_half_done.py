"""A change of a store is done as a whole or not at all, wherever it is broken off."""

import gc
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.errors import StorageError
from fotmem.stores import MemoryStore
from fotmem.stores import indexed_store as indexed
from fotmem.testing.store.interrupting import (
    Interruption,
    count_lines,
    ctrl_c,
    expect_to_end,
    raising,
    stopped,
)
from fotmem.testing.store.naive import draw
from tests.plain_stores import DiskStore, PlainStore

HEADS, DIM, FIRST, KEYS, MORE = 2, 4, 5, 40, 6
ROWS = draw(2, HEADS, KEYS + 2 * MORE, DIM, seed=1)
QUERIES = draw(HEADS, 2, DIM, seed=2)
TRIALS = int(os.environ.get("FOTMEM_TRIALS", "4"))
"""Lines at which a call is stopped, drawn at random (seeded); 0: every line."""

CHANGES: dict[str, Callable[[MemoryStore], object]] = {
    "add": lambda store: store.add(*ROWS[:, :, KEYS : KEYS + MORE]),
    "forget": lambda store: store.forget(25),  # enough for an index to be built anew
    "tune": lambda store: store.tune(**dict.fromkeys(sorted(store.search_options)[:1], 7)),
    "copy": lambda store: store.copy(),
    "flush": lambda store: store.flush(),
}
QUESTIONS: dict[str, Callable[[MemoryStore], object]] = {
    "search": lambda store: store.search(QUERIES, 3),
    "many": lambda store: store.search(draw(HEADS, 20, DIM), 3),
    "biased": lambda store: store.search(QUERIES, 3, bias=lambda ids: torch.zeros(ids.shape)),
    "attend": lambda store: store.attend(QUERIES, top_k=3, scale=0.5),
    "dense": lambda store: store.attend(QUERIES, top_k=None, scale=0.5),
    "keys": lambda store: store.keys(torch.full((HEADS, 1, 1), FIRST + 30)),
}
STORES = ["exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr", "disk"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let few keys have an index, and one thread search it."""
    monkeypatch.setattr(indexed, "EXACT_BELOW", 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def filled(name: str, directory: Path) -> MemoryStore:
    options: dict[str, Any] = {"num_heads": HEADS, "head_dim": DIM}
    if name == "disk":
        name, options["directory"] = "zarr", directory / f"{len(list(directory.iterdir()))}"
    if "hnsw" in name:
        options["threads"] = 2  # heads are searched by other threads
    store = create_store(name, **options)
    store.start_at(FIRST)
    store.add(*ROWS[:, :, :KEYS])
    return store


def held(store: MemoryStore) -> tuple[int, int, Tensor]:
    """Return all that a caller can know of a store's contents."""
    ids = torch.arange(store.first_id, store.next_id).expand(HEADS, 1, -1)
    return store.first_id, store.next_id, torch.stack([store.keys(ids), store.values(ids)])


def expect_whole(store: MemoryStore, how: Interruption) -> None:
    """Expect what was before or after a change, and a store that works on, and waits for nobody."""
    first, end, rows = held(store)
    assert (first - FIRST, end - FIRST) in {(0, KEYS), (0, KEYS + MORE), (25, KEYS)}, how
    assert torch.equal(rows[:, :, 0], ROWS[:, :, first - FIRST : end - FIRST]), how
    expect_to_end(lambda: work_on(store, first, end), f"a store after Ctrl-C in {how.place}")


def work_on(store: MemoryStore, first: int, end: int) -> None:
    for start in (end, end + MORE // 2):
        rows = ROWS[:, :, start - FIRST : start - FIRST + MORE // 2]
        store.add(*rows)
        own = rows[0] * 100  # finds itself, also by an index
        assert store.search(own, 2).ids.shape == (HEADS, MORE // 2, 2)
        assert torch.equal(held(store)[2][:, :, 0, start - first :][:, :, : MORE // 2], rows)
    best = store.search(QUERIES, len(store))
    keys = ROWS[0, :, first - FIRST : end + MORE - FIRST]
    expected = (QUERIES @ keys.transpose(1, 2)).sort(dim=-1, descending=True)
    torch.testing.assert_close(best.scores, expected.values)
    assert torch.equal(best.ids, expected.indices + first)
    store.forget(3)
    store.copy().close()
    store.flush()
    store.close()


def lines(count: int, seed: str) -> list[int]:
    """Choose lines of a call: some at random, or all."""
    every = range(count + 1)
    return list(every) if not TRIALS else random.Random(seed).sample(every, min(TRIALS, len(every)))


@pytest.mark.parametrize("call", [*CHANGES, *QUESTIONS])
@pytest.mark.parametrize("name", STORES)
def test_ctrl_c_at_every_line(name: str, call: str, tmp_path: Path) -> None:
    change = (CHANGES | QUESTIONS)[call]
    store = filled(name, tmp_path)
    for line in lines(count_lines(partial(change, store)), name + call):
        store = filled(name, tmp_path)
        how = stopped(partial(change, store), line, stop=ctrl_c)
        assert isinstance(how.error, KeyboardInterrupt) or not how.place, how
        expect_whole(store, how)


@pytest.mark.parametrize("error", [StorageError, MemoryError])
@pytest.mark.parametrize("call", ["add", "forget", "tune"])
@pytest.mark.parametrize("name", STORES)
def test_an_error_at_every_line_of_inner_methods(
    name: str, call: str, error: type[BaseException], tmp_path: Path
) -> None:
    change, inside = CHANGES[call], ["_" + call]
    store = filled(name, tmp_path)
    count = count_lines(partial(change, store), inside=inside)
    for line in lines(count, name + call + error.__name__):
        store = filled(name, tmp_path)
        stop = raising(error("a test"))
        how = stopped(partial(change, store), line, stop=stop, inside=inside)
        assert isinstance(how.error, error) or not how.place, how
        expect_whole(store, how)


@pytest.mark.parametrize("name", STORES)
def test_ctrl_c_in_start_at_and_close(name: str, tmp_path: Path) -> None:
    store = filled(name, tmp_path)
    for line in lines(count_lines(store.close), name + "close"):
        store = filled(name, tmp_path)
        how = stopped(store.close, line)
        assert isinstance(how.error, KeyboardInterrupt) or not how.place
        expect_to_end(store.close, f"close after Ctrl-C in {how.place}")
        with pytest.raises(StorageError, match="is closed"):
            store.search(QUERIES, 1)
    for line in lines(40, name):
        empty = create_store(name.replace("disk", "zarr"), num_heads=HEADS, head_dim=DIM)
        how = stopped(lambda: empty.start_at(FIRST), line)  # noqa: B023
        assert empty.next_id in ((0, FIRST) if how.place else (FIRST,))
        empty.start_at(FIRST)


@pytest.mark.parametrize("kind", [PlainStore, DiskStore])
@pytest.mark.parametrize("call", ["add", "forget", "flush", "copy"])
def test_third_parties_stores_at_every_line(kind: type[PlainStore], call: str) -> None:
    def made() -> PlainStore:
        store = kind(num_heads=HEADS, head_dim=DIM)
        store.start_at(FIRST)
        store.add(*ROWS[:, :, :KEYS])
        return store

    change, inner = CHANGES[call], ["_" + call]
    seed = kind.__name__ + call
    for line in lines(count_lines(lambda: change(made())), seed):
        store = made()
        expect_whole(store, stopped(partial(change, store), line))
    for line in lines(count_lines(lambda: change(made()), inside=inner), seed):
        store = made()
        stop = raising(MemoryError("a test"))
        expect_whole(store, stopped(partial(change, store), line, stop=stop, inside=inner))


def test_garbage_is_not_collected_within_a_call() -> None:
    collected: list[str] = []

    def noted(phase: str, info: dict[str, int]) -> None:
        collected.append(phase)

    gc.collect()  # or what other tests left makes one due between the calls
    gc.callbacks.append(noted)
    try:
        count_lines(lambda: [[number] for number in range(10**5)])
        stopped(lambda: [[number] for number in range(10**5)], 10**6)
    finally:
        gc.callbacks.remove(noted)
    assert not collected
