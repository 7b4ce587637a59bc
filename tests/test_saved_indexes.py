"""A store saves its index, and one with the same keys loads it."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.errors import OptionError
from fotmem.stores import Hits, IndexedStore, SavedIndex
from fotmem.stores import indexed_store as indexed
from fotmem.testing.store.naive import draw
from tests.interrupts import at_every_line

HEADS, DIM = 2, 8
LIBRARIES = {"faiss-ivf": "faiss", "faiss-ivfpq": "faiss", "faiss-hnsw": "faiss", "hnsw": "hnswlib"}
Make = Callable[..., IndexedStore]


@pytest.fixture(params=LIBRARIES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a store whose index is built at 64 keys."""
    pytest.importorskip(LIBRARIES[request.param])
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    return functools.partial(new_store, request.param)


def new_store(name: str, **options: Any) -> IndexedStore:
    store = create_store(name, num_heads=HEADS, head_dim=DIM, **options)
    assert isinstance(store, IndexedStore)
    return store


def keys_with_duplicates(count: int) -> Tensor:
    keys = draw(HEADS, count, DIM, seed=3) + 5 * draw(HEADS, 1, DIM, seed=7)
    keys[:, 50:60] = keys[:, 20:30]
    keys[:, 70] *= 30  # a hub key
    return keys


def answers(store: IndexedStore) -> list[Hits]:
    queries = draw(HEADS, 40, DIM, seed=1)
    few, many = store.search(queries[:, :1], 5), store.search(queries, 9)
    return [few, many, store.search(queries, 5, bias=lambda ids: -0.01 * ids.float())]


def require_equal(one: IndexedStore, other: IndexedStore) -> None:
    for mine, theirs in zip(answers(one), answers(other), strict=True):
        torch.testing.assert_close(mine.scores, theirs.scores)  # equal keys come in any order
        assert (mine.ids == theirs.ids).float().mean() > 0.9


def require_good(store: IndexedStore, keys: Tensor) -> None:
    queries = draw(HEADS, 40, DIM, seed=1)
    least = (queries @ keys.mT).topk(9).values[..., -1:]
    assert (store.search(queries, 9).scores >= least - 1e-4).float().mean() > 0.8


def test_a_loaded_index_answers_as_the_saved_one(make: Make) -> None:
    keys, options = keys_with_duplicates(900), {"seed": 3}
    store, again = make(**options), make(**options)
    for some in keys.split(170, 1):
        store.add(some, -some)
    saved = store.save_index()
    assert saved is not None
    assert saved.rows == 900
    assert again.fill([(some, -some) for some in keys.split(300, 1)], saved)
    assert again.indexed_rows == 900
    require_equal(again, store)
    more = draw(HEADS, 200, DIM, seed=9)
    again.add(more, more)
    assert again.indexed_rows == 1100
    require_good(again, torch.cat([keys, more], 1))
    require_equal(again.copy(), again)  # type: ignore[arg-type]


def test_keys_beyond_the_saved_index_are_added_to_it(make: Make) -> None:
    keys = keys_with_duplicates(900)
    store, again, grown = make(), make(), make()
    store.fill([(keys[:, :600], keys[:, :600])])
    saved = store.save_index()
    assert again.fill([(keys, keys)], saved)
    assert again.indexed_rows == 900
    grown.fill([(keys[:, :600], keys[:, :600])], saved)
    grown.add(keys[:, 600:], keys[:, 600:])
    require_equal(again, grown)


def test_an_index_that_does_not_fit_is_built(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    keys = keys_with_duplicates(300)
    store, fresh = make(), make()
    assert not fresh.fill([(keys, keys)])
    store.fill([(keys, keys)])
    saved = store.save_index()
    assert saved is not None
    older = SavedIndex(saved.made_by | {"library": "faiss 0.1"}, 300, saved.arrays)
    others = SavedIndex(saved.made_by, 300, {**saved.arrays, "first_row": np.array([-1])})
    broken = {name: array[:1] for name, array in saved.arrays.items()}
    for index in (older, others, SavedIndex(saved.made_by, 300, broken)):
        again = make()
        assert not again.fill([(keys, keys)], index)
        assert again.indexed_rows == 300
        require_good(again, keys)
    assert len(caplog.records) == 2
    other = make(seed=1)
    assert not other.fill([(keys, keys)], saved)
    with pytest.raises(OptionError, match="fill takes an empty store, got 300 keys"):
        other.fill([(keys, keys)], saved)


def test_a_fill_that_fails_leaves_what_was_added(make: Make) -> None:
    keys = keys_with_duplicates(300)
    store = make()
    with pytest.raises(ValueError, match="keys"):
        store.fill([(keys, keys), (keys[:, :, :3], keys)])
    assert (len(store), store.indexed_rows) == (300, 0)
    assert store.search(keys[:, :5], 3).ids.shape == (HEADS, 5, 3)
    store.add(keys, keys)
    assert store.indexed_rows == 600


@pytest.mark.parametrize("make", ["faiss-ivf"], indirect=True)
def test_ctrl_c_ends_a_fill_at_once_and_leaves_what_was_added(make: Make) -> None:
    keys = keys_with_duplicates(80)
    unused, stores = [make() for _ in range(300)], list[IndexedStore]()

    def fill() -> None:
        stores.append(unused.pop())
        stores[-1].fill([(keys, keys)])

    ends = list[bool]()
    for done in at_every_line(fill, ("stores/indexed_store.py", "stores/guard.py")):
        store = stores[-1]
        ends.append(done)
        assert len(store) in (0, 80)
        assert store.indexed_rows in (0, 80)
        with ThreadPoolExecutor(1) as other:  # which the store refuses while it is being filled
            other.submit(store.add, keys, keys).result()
        assert store.indexed_rows == len(store) >= 80
        require_good(store, torch.cat([keys] * (len(store) // 80), 1))
    assert ends.count(False) > 20


def test_stores_without_an_index_save_none() -> None:
    keys, told = keys_with_duplicates(300), list[int]()
    for name in ("exact", "zarr"):
        store = create_store(name, num_heads=HEADS, head_dim=DIM)  # zarr: too few for clusters
        assert not store.fill([(keys, keys), (keys, keys)], progress=told.append)
        assert (len(store), store.save_index()) == (600, None)
    assert told == [300, 600, 300, 600]
