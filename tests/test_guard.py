"""Who may do what to a store, and when."""

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.errors import BusyError, StorageError
from fotmem.stores import Bias, MemoryStore
from fotmem.stores import indexed_store as indexed
from fotmem.stores.guard import Guard
from fotmem.stores.parallel import ReadWriteLock
from fotmem.testing.store.interrupting import expect_to_end
from fotmem.testing.store.naive import draw
from tests.plain_stores import PlainStore

HEADS, DIM = 2, 4
ROWS, QUERIES = draw(2, HEADS, 40, DIM), draw(HEADS, 2, DIM, seed=2)
STORES = ["exact", "faiss-flat", "faiss-ivf", "faiss-ivfpq", "faiss-hnsw", "hnsw", "zarr"]

CHANGES: dict[str, Callable[[MemoryStore], object]] = {
    "add": lambda store: store.add(*ROWS),
    "forget": lambda store: store.forget(1),
    "tune": lambda store: store.tune(),
    "flush": lambda store: store.flush(),
    "close": lambda store: store.close(),
    "start_at": lambda store: store.start_at(3),
}
CALLS: dict[str, Callable[[MemoryStore], object]] = CHANGES | {
    "copy": lambda store: store.copy(),
    "search": lambda store: store.search(QUERIES, 3),
    "attend": lambda store: store.attend(QUERIES, top_k=3, scale=0.5),
    "dense": lambda store: store.attend(QUERIES, top_k=None, scale=0.5),
    "keys": lambda store: store.keys(torch.zeros(HEADS, 1, 1, dtype=torch.int64)),
    "values": lambda store: store.values(torch.zeros(HEADS, 1, 1, dtype=torch.int64)),
    "share_read": lambda store: store.share_read(QUERIES, 3),
    "len": len,
}
del CALLS["close"]


def filled(name: str, **options: Any) -> MemoryStore:
    store = create_store(name, num_heads=HEADS, head_dim=DIM, **options)
    store.add(*ROWS)
    return store


class Slow(PlainStore):
    """Waits within an inner method until `go_on` is set."""

    def __init__(self, **layer: Any) -> None:
        super().__init__(**layer)
        self.within, self.go_on = threading.Event(), threading.Event()
        self.waits = ""

    def wait(self, method: str) -> None:
        if method == self.waits:
            self.within.set()
            assert self.go_on.wait(100)

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        self.wait("add")
        super().add_rows(keys, values)

    def forget_rows(self, count: int) -> None:
        self.wait("forget")

    def copy_rows(self) -> MemoryStore:
        self.wait("copy")
        return PlainStore(num_heads=HEADS, head_dim=DIM)

    def flush(self) -> None:
        self.wait("flush")
        super().flush()


@pytest.mark.parametrize("second", [*CHANGES, "copy"])
@pytest.mark.parametrize("first", ["add", "forget", "flush", "copy"])
def test_a_second_thread_is_refused_by_name(first: str, second: str) -> None:
    store = Slow(num_heads=HEADS, head_dim=DIM)
    store.add(*ROWS)
    store.waits = first
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as pool:
        busy = pool.submit((CHANGES | CALLS)[first], store)
        assert store.within.wait(100)
        try:
            if first == second == "copy":
                store.waits = ""
                store.copy()
            else:
                message = rf"Slow\.{second} must wait until thread 'reader_0' is done with {first}"
                with pytest.raises(BusyError, match=message) as caught:
                    (CHANGES | CALLS)[second](store)
                assert isinstance(caught.value, RuntimeError)
            assert store.search(QUERIES, 3).ids.shape == (HEADS, 2, 3)
        finally:
            store.go_on.set()
        busy.result()
    store.waits = ""
    assert len(store) == 40 + 40 * (first == "add") - (first == "forget")
    store.add(*ROWS)
    store.close()


@pytest.mark.parametrize("name", STORES)
def test_threads_that_add_at_once_never_mix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is there as a whole, or its thread was refused."""
    monkeypatch.setattr(indexed, "EXACT_BELOW", 100)
    store = create_store(name, num_heads=HEADS, head_dim=DIM)
    together = threading.Barrier(3)

    def add(thread: int) -> list[int]:
        done = []
        together.wait()
        for piece in range(60):
            number = 100 * thread + piece
            rows = torch.full((HEADS, 3, DIM), float(number))
            try:
                store.add(rows, rows)
                done.append(number)
            except BusyError:
                pass
        return done

    def ask(thread: int) -> list[int]:
        together.wait()
        for _ in range(60):
            assert store.search(QUERIES, 2).ids.shape == (HEADS, 2, 2)
        return []

    with ThreadPoolExecutor(3) as pool:
        done = [
            number
            for each in pool.map(lambda i: (add, add, ask)[i](i), range(3))
            for number in each
        ]
    assert len(store) == 3 * len(done)
    ids = torch.arange(len(store)).expand(HEADS, 1, -1)
    for found in (store.keys(ids)[:, 0], store.values(ids)[:, 0]):
        numbers = found.view(HEADS, -1, 3 * DIM)
        assert torch.equal(numbers, numbers[..., :1].expand_as(numbers))
        assert sorted(numbers[0, :, 0].int().tolist()) == sorted(done)


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize("name", STORES)
def test_a_closed_store_answers_nothing(name: str, directory: bool, tmp_path: Path) -> None:
    if directory and name != "zarr":
        pytest.skip("the store lives in memory")
    options = {"directory": tmp_path / "store"} if directory else {}
    store = filled(name, **options)
    twin = store.copy()
    store.close()
    store.close()
    for what, call in CALLS.items():
        with pytest.raises(StorageError, match="closed; open it again"):
            print(what, call(store))
    with pytest.raises(StorageError, match="closed"), store:
        pass
    store.close()
    twin.add(*ROWS)
    assert len(twin) == 80
    with filled(name) as entered:
        assert len(entered) == 40
    with pytest.raises(StorageError, match="closed"):
        len(entered)


@pytest.mark.parametrize("name", ["exact", "faiss-flat", "faiss-ivf", "hnsw"])
def test_a_search_that_is_under_way_ends_well(name: str) -> None:
    """Another thread closes the store meanwhile, as when a memory is cleared."""
    calls: list[Callable[[MemoryStore, Bias | None], tuple[Tensor, Tensor]]] = [
        lambda store, bias: store.search(QUERIES, 3, bias=bias),
        lambda store, bias: store.attend(QUERIES, top_k=3, scale=0.5, bias=bias),
        lambda store, bias: store.attend(QUERIES, top_k=None, scale=0.5, bias=bias),
    ]
    for call in calls:
        store = filled(name)

        def closing(ids: Tensor) -> Tensor:
            store.close()  # noqa: B023
            return torch.zeros(ids.shape)

        expected = call(filled(name), None)
        for one, other in zip(call(store, closing), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_methods_of_a_subclass_are_refused_too() -> None:
    class Own(PlainStore):
        def share_read(self, queries: Tensor, top_k: int) -> float:
            return 1.0

    store = Own(num_heads=HEADS, head_dim=DIM)
    assert store.share_read(QUERIES, 1) == 1.0
    store.close()
    assert store.calls == ["close", "flush"]
    for call in (lambda: store.share_read(QUERIES, 1), store.flush, store.copy):
        with pytest.raises(StorageError, match="this Own is closed"):
            call()
    store.close()
    assert store.calls == ["close", "flush"]


def test_a_store_whose_close_fails_stays_open() -> None:
    store = Slow(num_heads=HEADS, head_dim=DIM)
    store.add(*ROWS)
    flush, store.flush = store.flush, lambda: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        store.close()
    assert len(store) == 40
    store.flush = flush  # type: ignore[method-assign]
    store.close()


def test_a_guard_is_pickled_as_one_that_nobody_holds() -> None:
    guard = Guard("Store")
    guard.begin("add")
    assert pickle.loads(pickle.dumps(guard)).begin("flush")
    guard.close()
    with pytest.raises(StorageError, match="this Store is closed"):
        pickle.loads(pickle.dumps(guard)).require_usable()


def test_readers_and_a_writer_never_meet() -> None:
    lock, inside = ReadWriteLock(), [0]
    met: list[int] = []

    def read() -> None:
        def look() -> None:
            inside[0] += 1
            if written[0] != written[1]:
                met.append(1)
            inside[0] -= 1

        for _ in range(200):
            lock.reading(look)

    def write() -> None:
        def change() -> None:
            for i in range(2):
                written[i] += 1

        for _ in range(200):
            lock.writing(change)

    written = [0, 0]
    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(each) for each in (read, read, read, write)]:
            ended.result()
    assert not met
    assert written == [200, 200]


def test_an_error_releases_the_lock() -> None:
    lock = ReadWriteLock()
    for enter in (lock.reading, lock.writing):
        with pytest.raises(ZeroDivisionError):
            enter(lambda: 1 / 0)
    expect_to_end(lambda: lock.writing(lambda: lock), "a lock that nobody holds")
