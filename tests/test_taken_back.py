"""What the inner methods of a store left half done is taken back."""

import gc
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem.errors import StorageError
from fotmem.stores import Hits, MemoryStore, RowsStore, StoreOptions, exact_search
from fotmem.testing.store.interrupting import (
    count_lines,
    ctrl_c,
    raising,
    stopped,
)
from tests.plain_stores import DiskStore
from tests.test_half_done import (  # noqa: F401 - a fixture
    CHANGES,
    DIM,
    FIRST,
    HEADS,
    KEYS,
    QUERIES,
    QUESTIONS,
    ROWS,
    expect_whole,
    held,
    small,
    work_on,
)


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
