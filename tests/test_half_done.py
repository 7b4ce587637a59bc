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
from fotmem.stores import Hits, MemoryStore, RowsStore, StoreOptions, exact_search
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


class ListStore(MemoryStore):
    """Keeps each piece that is added, and breaks at a step of its inner methods."""

    search_options = frozenset({"nprobe", "effort"})

    def __init__(self, **layer: Any) -> None:
        super().__init__(**layer)
        self.pieces: dict[str, list[Tensor]] = {"keys": [], "values": []}
        self.first = 0
        self.nprobe, self.effort = 1, 1
        self.breaks = -1

    def step(self) -> None:
        self.breaks -= 1
        if self.breaks == 0:
            raise OSError("no space left")

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        self.step()
        self.pieces["keys"].append(keys.clone())
        self.step()
        self.pieces["values"].append(values.clone())
        self.step()

    def forget_rows(self, count: int) -> None:
        self.step()
        self.pieces["keys"] = [self.rows("keys")[:, count:]]
        self.step()
        self.pieces["values"] = [self.rows("values")[:, count:]]
        self.step()
        self.first += count
        self.step()

    def tune_options(self, options: dict[str, Any]) -> None:
        self.step()
        self.nprobe = options.get("nprobe", self.nprobe)
        self.step()
        self.effort = options.get("effort", self.effort)
        self.step()

    def rows(self, which: str) -> Tensor:
        return torch.cat(self.pieces[which], 1)

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        scores = queries.float() @ self.rows("keys").float().transpose(1, 2)
        best = scores.topk(min(top_k, scores.shape[2]), dim=-1)
        return Hits(best.indices + self.first, best.values)

    def key_rows(self, ids: Tensor) -> Tensor:
        return self.rows("keys")[torch.arange(HEADS)[:, None, None], ids - self.first]

    def value_rows(self, ids: Tensor) -> Tensor:
        return self.rows("values")[torch.arange(HEADS)[:, None, None], ids - self.first]


def listed(kind: type[ListStore] = ListStore) -> ListStore:
    store = kind(num_heads=HEADS, head_dim=DIM)
    store.start_at(FIRST)
    for piece in ROWS[:, :, :KEYS].split(7, dim=2):
        store.add(*piece)
    return store


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 9])
def test_what_add_left_half_done_is_taken_back(step: int, before: int) -> None:
    store = listed()
    store.forget(before)
    store.breaks = step
    with pytest.raises(OSError, match="no space left"):
        CHANGES["add"](store)
    first, end, rows = held(store)
    assert (first, end, len(store)) == (FIRST + before, FIRST + KEYS, KEYS - before)
    assert torch.equal(rows[:, :, 0], ROWS[:, :, before:KEYS])
    work_on(store, first, end)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_what_forget_left_half_done_is_never_an_answer(step: int) -> None:
    """Its keys are where it says, or it says that it cannot be used any more."""
    store = listed()
    store.breaks = step
    with pytest.raises(OSError, match="no space left") as caught:
        store.forget(11)
    if step in (2, 3):  # keys have moved, which only the store itself could undo
        for call in (*CHANGES.values(), *QUESTIONS.values()):
            with pytest.raises(
                StorageError, match="ListStore cannot be used any more: forget_rows"
            ):
                call(store)
        assert "cannot be used any more" in caught.value.__notes__[0]
        store.close()
        with pytest.raises(StorageError, match="closed"):
            store.flush()
    else:
        first, end, rows = held(store)
        assert (first, end) == (FIRST + 11, FIRST + KEYS)
        assert torch.equal(rows[:, :, 0], ROWS[:, :, 11:KEYS])
        work_on(store, first, end)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_what_tune_left_half_done_is_taken_back(step: int) -> None:
    store = listed()
    store.breaks = step
    with pytest.raises(OSError, match="no space left"):
        store.tune(nprobe=3, effort=4)
    assert (store.nprobe, store.effort) == (1, 1)
    assert torch.equal(held(store)[2][:, :, 0], ROWS[:, :, :KEYS])
    work_on(store, FIRST, FIRST + KEYS)


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


class Options(StoreOptions):
    effort: int = 1


class NotedStore(RowsStore):
    """Has an index of its own, of which the base class knows nothing."""

    search_options = frozenset({"effort"})

    def __init__(self, *, options: Options, **layer: Any) -> None:
        super().__init__(**layer)
        self.options = options
        self.noted: list[int] = []

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        first = len(self.stored_keys)
        super().add_rows(keys, values)
        for number in range(first, first + keys.shape[1]):
            self.noted.append(number)

    def search_rows(self, queries: Tensor, top_k: int) -> Hits:
        assert self.noted == list(range(len(self.stored_keys)))
        first, keys = self.stored_keys.since(self.forgotten_rows)
        return exact_search(queries, keys, top_k, first_id=first)


def test_what_only_a_subclass_knows_is_taken_back() -> None:
    def made() -> NotedStore:
        store = NotedStore(num_heads=HEADS, head_dim=DIM, options=Options(effort=3))
        store.start_at(FIRST)
        store.add(*ROWS[:, :, :KEYS])
        return store

    change = CHANGES["add"]
    for line in range(count_lines(partial(change, made()), inside=["add_rows"])):
        store = made()
        stop = raising(OSError("no space left"))
        how = stopped(partial(change, store), line, stop=stop, inside=["add_rows"])
        assert store.options.effort == 3
        expect_whole(store, how)


def test_a_store_that_shares_what_it_was_made_with_is_not_built_anew() -> None:
    class Shared(ListStore):
        def __init__(self, *, connection: list[int], **layer: Any) -> None:
            super().__init__(**layer)

    store = Shared(connection=[1], num_heads=HEADS, head_dim=DIM)
    store.breaks = 2
    with pytest.raises(OSError, match="no space left"):
        CHANGES["add"](store)
    with pytest.raises(StorageError, match=r"made with \[1\], so it must implement new_empty"):
        len(store)


def test_a_store_with_a_directory_is_not_built_anew_in_memory() -> None:
    class OnDisk(ListStore):
        def __init__(self, **layer: Any) -> None:
            super().__init__(**layer)
            self.resume_at(0, 0, 0)

    store = listed(OnDisk)
    store.breaks = 2
    with pytest.raises(OSError, match="no space left"):
        CHANGES["add"](store)
    with pytest.raises(StorageError, match=r"OnDisk must implement undo_rows.*open its directory"):
        store.search(QUERIES, 1)


def test_a_store_that_was_given_a_directory_is_not_built_anew_in_memory(tmp_path: Path) -> None:
    store = DiskStore(num_heads=HEADS, head_dim=DIM, directory=tmp_path / "store")
    store.add(*ROWS[:, :, :KEYS])
    store.flush()
    store.full = True
    with pytest.raises(OSError, match="no space left"):
        CHANGES["add"](store)
    with pytest.raises(StorageError, match="DiskStore must implement undo_rows"):
        store.flush()
    del store  # which lets go of the directory
    gc.collect()
    again = DiskStore(num_heads=HEADS, head_dim=DIM, directory=tmp_path / "store")
    assert len(again) == KEYS


def test_ctrl_c_and_an_error_at_once_are_both_heard() -> None:
    store = listed()

    def broken(keys: Tensor, values: Tensor) -> None:
        ctrl_c()
        raise OSError("no space left")

    store.add_rows = broken  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt) as caught:
        CHANGES["add"](store)
    assert isinstance(caught.value.__context__, OSError)
    assert len(store) == KEYS


def test_garbage_is_not_collected_within_a_call() -> None:
    collected: list[str] = []

    def noted(phase: str, info: dict[str, int]) -> None:
        collected.append(phase)

    gc.callbacks.append(noted)
    try:
        count_lines(lambda: [[number] for number in range(10**5)])
        stopped(lambda: [[number] for number in range(10**5)], 10**6)
    finally:
        gc.callbacks.remove(noted)
    assert not collected
