"""Other stores for what was read, and different ones per layer."""

from typing import Any

import pytest
import torch

import fotmem
from fotmem import FotmemError, Memory
from fotmem.errors import MissingPackageError, OptionError, UnknownStoreError
from tests import tiny
from tests.tiny import (  # noqa: F401 - `one_thread` is a fixture
    LAYERS,
    WINDOW,
    contents,
    difference,
    one_thread,
)

STORES = [
    pytest.param(name, marks=pytest.mark.skipif(not spec.available, reason=spec.reason))
    for name, spec in fotmem.available_stores().items()
]


def read(tokens: int, **options: Any) -> tuple[Any, Memory]:
    model = tiny.llama()
    memory = fotmem.attach(model, layers=LAYERS, window=WINDOW, top_k=8, **options)
    memory.read(tiny.ids(tokens))
    return model, memory


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("decay", [0, 0.85])
def test_any_store_gives_the_logits_of_exact_while_it_is_small(store: str, decay: float) -> None:
    question = tiny.ids(9, seed=5)
    plain, _ = read(200, decay=decay)
    model, memory = read(200, store=store, decay=decay)
    assert difference(model(question).logits, plain(question).logits) <= 1e-4
    memory.top_k = None
    plain, other = read(200, decay=decay)
    other.top_k = None
    assert difference(model(question).logits, plain(question).logits) <= 1e-4


@pytest.mark.parametrize("store", STORES)
def test_use_keeps_tokens_and_ids(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fotmem.memory.contents.BULK", 9 * 2 * 8)  # some keys at a time
    model, memory = read(77)
    memory.store(LAYERS[0]).forget(5)
    question = tiny.ids(9, seed=5)
    before, kept = model(question).logits, [contents(memory.store(layer)) for layer in LAYERS]
    kind = type(memory.store(LAYERS[0]))
    memory.use(store)
    assert (memory.store(LAYERS[0]).first_id, memory.store(LAYERS[0]).next_id) == (5, 77)
    for layer, (keys, values) in zip(LAYERS, kept, strict=True):
        assert torch.equal(contents(memory.store(layer))[0], keys)
        assert torch.equal(contents(memory.store(layer))[1], values)
    assert difference(model(question).logits, before) <= 1e-4
    memory.read(tiny.ids(30, seed=2))
    assert memory.store(LAYERS[1]).next_id == len(memory) == 107
    longer = model(tiny.ids(3 * WINDOW)).past_key_values.store(LAYERS[0])
    assert (store == "exact") == (type(longer) is kind)
    memory.clear()
    assert (store == "exact") == (type(memory.store(LAYERS[0])) is kind)


def test_stores_used_temporarily_are_replaced_at_the_end() -> None:
    model, memory = read(60)
    question, stores = tiny.ids(9, seed=5), dict(memory.stores)
    before = model(question).logits
    with memory.temporarily():
        memory.use("zarr")
        assert type(memory.store(LAYERS[0])).__name__ == "ZarrStore"
    assert memory.stores == stores
    assert torch.equal(model(question).logits, before)
    memory.clear()  # makes stores anew
    assert type(memory.store(LAYERS[0])) is type(stores[LAYERS[0]])


def test_layers_may_have_different_stores_with_their_own_options() -> None:
    pytest.importorskip("faiss")
    question = tiny.ids(9, seed=5)
    plain, _ = read(60)
    model, memory = read(60, store={1: "faiss-ivf", 3: "exact"}, nprobe=5)
    assert difference(model(question).logits, plain(question).logits) <= 1e-4
    names = [type(memory.store(layer)).__name__ for layer in LAYERS]
    assert names == ["IvfStore", "ExactStore"]
    memory.use({1: "exact", 3: "faiss-hnsw"}, ef_search=9)
    names = [type(memory.store(layer)).__name__ for layer in LAYERS]
    assert names == ["ExactStore", "HnswStore"]
    assert difference(model(question).logits, plain(question).logits) <= 1e-4


@pytest.mark.parametrize(
    "store, options, error, message",
    [
        ("exat", {}, UnknownStoreError, "did you mean 'exact'"),
        ({1: "exact"}, {}, OptionError, r"store names layers \[1\], but the memory layers are"),
        ({1: "exact", 3: 4}, {}, UnknownStoreError, "no store is named 4"),
        ("exact", {"nprobe": 2}, OptionError, "store 'exact' has no option 'nprobe'"),
        (
            {1: "exact", 3: "faiss-ivf"},
            {"nprob": 2},
            OptionError,
            "store 'exact' or 'faiss-ivf' has no option 'nprob'; did you mean 'nprobe'",
        ),
        (
            "faiss-ivf",
            {"nprobe": 0},
            OptionError,
            "'nprobe' of store 'faiss-ivf' must be at least 1, got 0",
        ),
        ("faiss-ivf", {"values": "disk"}, OptionError, "'ram' or 'mmap', got 'disk'"),
    ],
)
def test_a_failed_use_changes_nothing(
    store: Any, options: dict[str, Any], error: type[FotmemError], message: str
) -> None:
    model, memory = read(60)
    question, stores = tiny.ids(9, seed=5), dict(memory.stores)
    before = model(question).logits
    try:
        with pytest.raises(error, match=message):
            memory.use(store, **options)
    except MissingPackageError as missing:
        pytest.skip(str(missing))
    assert memory.stores == stores
    assert torch.equal(model(question).logits, before)
    memory.clear()
    assert type(memory.store(1)) is type(stores[1])


def test_a_store_that_fails_while_it_is_filled_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, memory = read(60)
    question, before = tiny.ids(9, seed=5), dict(memory.stores)
    logits = model(question).logits
    kind = type(memory.store(1))
    monkeypatch.setattr("fotmem.memory.contents.BULK", 1)  # key by key
    calls, plain = iter(range(100)), kind.add

    def add(self: Any, keys: Any, values: Any) -> None:
        if next(calls) == 5:
            raise OSError("no space left")
        plain(self, keys, values)

    monkeypatch.setattr(kind, "add", add)
    with pytest.raises(OSError, match="no space"):
        memory.use("exact")
    assert memory.stores == before
    assert torch.equal(model(question).logits, logits)


def test_a_window_that_cannot_be_added_is_dropped_also_where_keys_were_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, memory = read(60)
    memory.store(LAYERS[0]).forget(5)
    kept = contents(memory.store(LAYERS[0]))
    kind = type(memory.store(LAYERS[0]))
    calls, plain = iter(range(100)), kind.add

    def add(self: Any, keys: Any, values: Any) -> None:
        if next(calls) == 1:  # of the second layer
            raise OSError("no space left")
        plain(self, keys, values)

    monkeypatch.setattr(kind, "add", add)
    with pytest.raises(OSError, match="no space"):
        memory.read(tiny.ids(9, seed=3))
    assert len(memory) == 60
    assert [memory.store(layer).next_id for layer in LAYERS] == [60, 60]
    assert memory.store(LAYERS[0]).first_id == 5
    for now, before in zip(contents(memory.store(LAYERS[0])), kept, strict=True):
        assert torch.equal(now, before)
