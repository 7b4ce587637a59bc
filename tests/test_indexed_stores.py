"""Stores with an index, on few keys, where brute force tells what is right."""

import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.errors import OptionError
from fotmem.stores import Hits, IndexedStore, MemoryStore
from fotmem.stores import indexed_store as indexed
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import draw, naive_topk_attention

HEADS, DIM = 2, 8
Make = Callable[..., MemoryStore]

STORES: dict[str, dict[str, Any]] = {  # options with which they find everything
    "faiss-ivf": {"nlist": 8, "nprobe": 8},
    "faiss-ivfpq": {"nlist": 8, "nprobe": 8, "rerank": 1000},
    "faiss-hnsw": {"ef_search": 2000},
    "hnsw": {"ef_search": 2000},
}


@pytest.fixture(params=STORES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what makes a store whose index is built at 64 keys."""
    pytest.importorskip("hnswlib" if request.param == "hnsw" else "faiss")
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    return functools.partial(
        create_store, request.param, num_heads=HEADS, head_dim=DIM, **STORES[request.param]
    )


def filled(make: Make, vectors: Tensor, step: int = 100, **options: Any) -> IndexedStore:
    store = make(**options)
    assert isinstance(store, IndexedStore)
    for some in vectors.split(step, 1):
        store.add(some, some)
    assert store.indexed_rows == vectors.shape[1]  # or nothing here tests an index
    return store


def attention_like(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw keys around a mean that is far from 0, and queries that point against it."""
    mean = 5 * draw(HEADS, 1, DIM, seed=seed + 7)
    return draw(HEADS, count, DIM, seed=seed) + mean, draw(HEADS, 20, DIM, seed=seed + 1) - mean


@pytest.mark.parametrize("step", [7, 100, 1500])
def test_what_is_found_is_exact_where_everything_is_looked_at(make: Make, step: int) -> None:
    keys, queries = attention_like(1500)
    store = filled(make, keys, step)
    expect_exact(store.search(queries, 16), queries, keys, 16)
    expected = naive_topk_attention(queries, keys, keys, 0.3, 16)
    expect_attention(store.attend(queries, top_k=16, scale=0.3), expected, torch.float32)


@pytest.mark.parametrize("make", ["faiss-ivf"], indirect=True)  # its float16 ends at 65,504
@pytest.mark.parametrize("longer", [0.05, 1e4])
def test_keys_may_be_far_longer_or_shorter_than_those_learnt_from(
    make: Make, longer: float
) -> None:
    keys, queries = attention_like(1500)
    keys[:, 700:] *= longer
    queries[:, ::2] *= -1
    expect_exact(filled(make, keys, 100).search(queries, 16), queries, keys, 16)


def test_one_giant_among_the_first_keys_hides_no_others(make: Make) -> None:
    keys, queries = attention_like(3000)
    keys[:, 5] *= 1e6
    expect_exact(filled(make, keys).search(queries, 16), queries, keys, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", ["ram", "mmap"])
def test_keys_of_any_dtype_in_any_place(make: Make, place: str, dtype: torch.dtype) -> None:
    keys, queries = attention_like(700)
    keys = keys.to(dtype)
    store = filled(make, keys, dtype=dtype, keys=place, values=place)
    hits = store.search(queries, 16)
    expect_exact(hits, queries, keys, 16)
    heads = torch.arange(HEADS)[:, None, None]
    for found in (store.keys(hits.ids), store.values(hits.ids)):
        assert torch.equal(found, keys[heads, hits.ids])


def test_forgetting_hides_and_then_builds_anew(make: Make) -> None:
    keys, queries = attention_like(900)
    store = filled(make, keys)
    for first in (50, 300, 500, 880, 900):
        store.forget(first - store.first_id)
        live = keys[:, first:]
        expect_exact(store.search(queries, 16), queries, live, 16, first_id=first)
    store.add(keys, keys)
    expect_exact(store.search(queries, 16), queries, keys, 16, first_id=900)


def test_copies_do_not_share_what_is_added_later(make: Make) -> None:
    keys, queries = attention_like(600)
    more = attention_like(300, seed=5)[0]
    store = filled(make, keys)
    twin = store.copy()
    twin.add(more, more)
    store.add(-more, more)
    twin.add(more, more)
    for each, rest in ((twin, [more, more]), (store, [-more])):
        whole = torch.cat([keys, *rest], 1)
        hits = each.search(queries, 64)  # graphs may confuse the last ones
        expect_exact(Hits(*(found[..., :16] for found in hits)), queries, whole, 16)


def test_equal_keys_are_all_found(make: Make) -> None:
    distinct, queries = attention_like(30)
    order = torch.randint(30, (900,), generator=torch.Generator().manual_seed(0))
    keys = distinct[:, order]
    store = filled(make, keys)
    for top_k in (1, 5, 40, 200):
        expect_exact(store.search(queries, top_k), queries, keys, top_k)
    twin = store.copy()
    twin.add(distinct, distinct)
    both = torch.cat([keys, distinct], 1)
    expect_exact(twin.search(queries, 40), queries, both, 40)
    expect_exact(store.search(queries, 40), queries, keys, 40)


@pytest.mark.parametrize("size", [1e-12, 1e15])
def test_norms_may_be_anything(make: Make, size: float) -> None:
    keys, queries = attention_like(600)
    keys = keys * size * torch.logspace(-2, 0, 600)[:, None]
    queries = queries * size
    store = filled(make, keys)
    expect_exact(store.search(queries, 16), queries, keys, 16)


def test_all_keys_alike(make: Make) -> None:
    for key in (torch.zeros(HEADS, 1, DIM), torch.ones(HEADS, 1, DIM)):
        keys = key.expand(HEADS, 300, DIM)
        store = filled(make, keys)
        queries = draw(HEADS, 5, DIM)
        expect_exact(store.search(queries, 16), queries, keys, 16)


def test_an_index_that_fails_leaves_the_store_as_it_was(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = attention_like(600)
    store = filled(make, keys)

    def fail(self: Any, first: int, some: Tensor) -> None:
        raise MemoryError("no room for the index")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "extend_index", fail)
        with pytest.raises(MemoryError):
            store.add(keys, keys)
    assert store.next_id == 600
    expect_exact(store.search(queries, 16), queries, keys, 16)
    store.add(keys, keys)
    both = torch.cat([keys, keys], 1)
    assert store.indexed_rows == 1200
    expect_exact(store.search(queries, 16), queries, both, 16)


def test_searching_while_another_thread_adds(make: Make) -> None:
    keys, queries = attention_like(2000)
    store = filled(make, keys[:, :200])
    failures: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                ids, scores = store.search(queries, 8)
                heads = torch.arange(HEADS)[:, None, None]
                truth = torch.einsum("hqd,hqkd->hqk", queries, keys[heads, ids])
                torch.testing.assert_close(scores, truth, rtol=1e-4, atol=1e-4)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for some in keys[:, 200:].split(190, 1):
        store.add(some, some)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    expect_exact(store.search(queries, 8), queries, keys, 8)


EFFORT = {"faiss-ivf": "nprobe", "faiss-ivfpq": "nprobe", "faiss-hnsw": "ef_search"}


@pytest.mark.parametrize(
    "grown",
    [40, pytest.param(700, marks=pytest.mark.thorough), 2000],
    ids="keys when tuned: {}".format,
)
def test_a_tuned_store_finds_what_one_made_so_does(
    request: pytest.FixtureRequest, make: Make, grown: int
) -> None:
    name = EFFORT.get(request.node.callspec.params["make"], "ef_search")
    keys, queries = attention_like(2000)  # lists are trained anew on the way
    least: dict[str, Any] = {name: 1, "nlist": 40} if name == "nprobe" else {name: 1}
    made, tuned = filled(make, keys, **least), make(**least | {name: 4})
    for some in keys.split(100, 1):
        tuned.add(some, some)
        if tuned.next_id >= grown:
            tuned.tune(**{name: 1})
    assert torch.equal(tuned.search(queries, 4).ids, made.search(queries, 4).ids)
    twin = tuned.copy()
    twin.tune(**{name: 40})
    hard = draw(HEADS, 200, DIM, seed=2)  # not towards the hubs
    more, few = (store.search(hard, 4).scores.sum() for store in (twin, made))
    assert more > few
    assert torch.equal(tuned.search(queries, 4).ids, made.search(queries, 4).ids)


def test_what_cannot_be_tuned_is_refused(make: Make) -> None:
    store = make()
    for options, reason in (
        ({"seed": 1}, "Store has no search option 'seed'; its search options are: "),
        ({next(iter(store.search_options)): 0}, "of this store must be at least"),
    ):
        before = store.options  # type: ignore[attr-defined]
        with pytest.raises(OptionError, match=reason):
            store.tune(**options)
        assert store.options == before  # type: ignore[attr-defined]


def test_two_builds_find_the_same(make: Make) -> None:
    keys, queries = attention_like(3000)
    few = {"nprobe": 1} if "nprobe" in make.keywords else {"ef_search": 10}  # type: ignore[attr-defined]
    one, other = (filled(make, keys, 170, threads=threads, **few) for threads in (1, 2))
    first, second = one.search(queries, 16), other.search(queries, 16)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(first.scores, second.scores)


def test_hubs_are_found_whatever_the_index_does(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = attention_like(3000)
    sinks = torch.arange(50, 3000, 200)
    mean = keys.mean(1, keepdim=True)
    keys[:, sinks] = -0.5 * mean + 0.01 * keys[:, sinks]
    store = filled(make, keys)
    monkeypatch.setattr(  # an index that leads nowhere
        type(store),
        "find_candidates",
        lambda self, some, top_k: torch.full((HEADS, some.shape[1], 1), -1),
    )
    for each in (store, store.copy()):
        ids = each.search(queries, 10).ids
        assert torch.isin(ids, sinks).all()


def test_with_a_bias_nothing_forgotten_is_found(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexed, "RECENT", 10)
    keys, queries = attention_like(1000)
    store = filled(make, keys)
    store.forget(300)  # less than half: the index still knows them
    hits = store.search(queries, 10, bias=lambda ids: torch.zeros(ids.shape))
    assert hits.ids.amin() >= 300
    best = (queries @ keys[:, 300:].transpose(1, 2)).topk(10).values
    assert (hits.scores >= best[..., -1:] - 1e-3).float().mean() >= 0.9


def test_with_a_bias_for_the_newest_keys_these_are_compared(make: Make) -> None:
    keys, queries = attention_like(3000)

    def bias(ids: Tensor) -> Tensor:
        return -0.05 * (2999 - ids).float()

    store = filled(make, keys, nprobe=1) if "nprobe" in make.keywords else filled(make, keys)  # type: ignore[attr-defined]
    scores = queries @ keys.transpose(1, 2) + bias(torch.arange(3000))
    best = scores.topk(10, -1)
    hits = store.search(queries, 10, bias=bias)
    found = hits.scores >= best.values[..., -1:] - 1e-3
    assert found.float().mean() >= 0.98
    torch.testing.assert_close(hits.scores, scores.gather(2, hits.ids))


def test_a_search_for_many_keys_finds_all_of_them(make: Make) -> None:
    options = dict.fromkeys(make().search_options, 1)  # the least effort there is
    keys, queries = attention_like(900)
    store = filled(make, keys, **options)
    store.forget(100)
    for top_k in (150, 800, 1000):
        expect_exact(store.search(queries, top_k), queries, keys[:, 100:], top_k, first_id=100)
    decay = store.search(queries, 150, bias=lambda ids: -0.01 * ids)
    scores = queries @ keys[:, 100:].transpose(1, 2) - 0.01 * torch.arange(100, 900)
    assert torch.allclose(decay.scores, scores.topk(150).values, atol=1e-3)


def test_forgetting_that_fails_leaves_the_store_as_it_was(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = attention_like(900)
    store = filled(make, keys)
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "build_index", _stopped)
        with pytest.raises(KeyboardInterrupt):
            store.forget(700)
    assert (store.first_id, len(store)) == (0, 900)
    expect_exact(store.search(queries, 16), queries, keys, 16)
    store.forget(700)
    store.add(keys[:, :100], keys[:, :100])
    live = torch.cat([keys[:, 700:], keys[:, :100]], 1)
    expect_exact(store.search(queries, 16), queries, live, 16, first_id=700)
    ids = torch.arange(700, 1000).expand(HEADS, 1, -1)
    assert torch.equal(store.keys(ids)[:, 0], live)


def _stopped(store: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("size", [1e-30, 1e18, 1e25])
def test_queries_may_be_tiny_or_huge(make: Make, size: float) -> None:
    keys, queries = attention_like(900)
    hits = filled(make, keys).search(queries * size, 4)
    expect_exact(hits, queries * size, keys, 4)


@pytest.mark.parametrize("step", [37, 246, 2048, 9000])
@pytest.mark.parametrize("name", ["faiss-ivf", "faiss-ivfpq"])
def test_lists_grow_with_the_memory_however_little_is_added_at_a_time(
    name: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexed, "EXACT_BELOW", 512)
    keys, _ = attention_like(20_000)
    store: Any = create_store(name, num_heads=HEADS, head_dim=DIM)
    for some in keys.split(step, 1):
        store.add(some, some)
    lists = store._lists._clusters.centres.shape[1]
    assert lists >= 2 * (20_000 / 4) ** 0.5  # those of a memory that has not grown much since


@pytest.mark.parametrize("count", [30, 150, 260, 1000, 1500])
def test_a_dropped_store_frees_its_memory_at_once(make: Make, count: int) -> None:
    store = make()
    for some in attention_like(count)[0].split(9, 1):  # an index may be in the making
        store.add(some, some)
    held = [weakref.ref(each) for each in (store, store.copy())]
    gc.disable()
    try:
        del store
        assert [each() for each in held] == [None, None]
    finally:
        gc.enable()
