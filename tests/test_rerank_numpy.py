"""Few queries find what the same queries find among many."""

import functools
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from fotmem.stores import Hits, IndexedOptions, IndexedStore, MemoryStore, rerank_numpy
from fotmem.stores import indexed_store as indexed
from fotmem.stores.buffers import Place
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import draw

HEADS, DIM, COUNT, TOP_K = 3, 8, 600, 12


class AnyStore(IndexedStore):
    """Its index names any keys, some of them hubs, in every query others; and -1."""

    named = 40

    def build_index(self) -> None:
        pass

    def extend_index(self, first: int, keys: Tensor) -> None:
        pass

    def find_candidates(self, queries: Tensor, top_k: int) -> Tensor:
        generator = torch.Generator().manual_seed(queries.shape[1])
        shape = *queries.shape[:2], COUNT
        order = torch.rand(shape, generator=generator).argsort(2)[..., : self.named]
        assert self._hubs is not None
        hubs = self._hubs.held()[:, None, -5 if self.named else 10**6 :]
        hubs = hubs.expand(-1, queries.shape[1], -1)
        others = order.masked_fill((order[..., None] == hubs[:, :, None]).any(3), -1)
        return torch.cat([others, hubs], 2)

    def copy_index(self, twin: Self) -> None:
        pass


@pytest.fixture(autouse=True)
def early_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)


def filled(
    *, dtype: torch.dtype = torch.float32, place: Place = "ram", equal: bool = False
) -> AnyStore:
    keys = draw(HEADS, COUNT, DIM, seed=1)
    keys[0, 100:120] = 40 * keys[0, 100:120]  # one head has more hubs than others
    if equal:
        keys[:, 300:] = keys[:, :300]
    options = IndexedOptions(keys=place, values=place)
    store = AnyStore(num_heads=HEADS, head_dim=DIM, dtype=dtype, options=options)
    for some in keys.split(70, 1):
        store.add(some, some)
    return store


def both(store: MemoryStore, count: int, monkeypatch: pytest.MonkeyPatch, **bias: Any) -> Hits:
    """Search for few queries, and compare with what is found as for many."""
    queries = draw(HEADS, count, DIM, seed=2)
    hits = store.search(queries, TOP_K, **bias)
    with monkeypatch.context() as patch:
        patch.setattr(rerank_numpy, "FEW", 0)
        patch.setattr(rerank_numpy.NumpyReranker, "rerank", None)
        expected = store.search(queries, TOP_K, **bias)
    torch.testing.assert_close(hits.scores, expected.scores)
    found = hits.ids >= 0
    assert torch.equal(found, hits.scores > -torch.inf)
    keys = store.keys(hits.ids).float()
    scores = (keys @ queries[..., None]).squeeze(3)
    if bias:
        scores += bias["bias"](hits.ids)
    torch.testing.assert_close(hits.scores[found], scores[found])
    for row in hits.ids.flatten(0, 1).tolist():
        assert len({*row} - {-1}) == len([each for each in row if each >= 0])
    return hits


@pytest.mark.parametrize("count", [1, 3, rerank_numpy.FEW])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", ["ram", "mmap"])
def test_numpy_finds_what_torch_finds(
    count: int, dtype: torch.dtype, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(filled(dtype=dtype, place=place), count, monkeypatch)


def test_numpy_finds_what_torch_finds_among_equal_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    both(filled(equal=True), 2, monkeypatch)


@pytest.mark.parametrize("named", [0, 1, COUNT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_candidates(
    named: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnyStore, "named", named)
    store = filled(dtype=dtype)
    hits = both(store, 2, monkeypatch)
    if named == COUNT:
        queries, keys = draw(HEADS, 2, DIM, seed=2), next(store.live_blocks())[0].float()
        expect_exact(hits, queries, keys, TOP_K)


@pytest.mark.parametrize("forgotten", [0, 50, 200, 400])
def test_nothing_forgotten_is_found(forgotten: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled()
    store.forget(forgotten)
    hits = both(store, 3, monkeypatch)
    assert (hits.ids[hits.ids >= 0] >= forgotten).all()


@pytest.mark.parametrize("recent", [0, 100])
@pytest.mark.parametrize("forgotten", [0, 50])
def test_with_a_bias(recent: int, forgotten: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed, "RECENT", recent)
    store = filled()
    store.forget(forgotten)

    def bias(ids: Tensor) -> Tensor:
        return -0.02 * (COUNT - ids).float()

    both(store, 2, monkeypatch, bias=bias)


def test_many_candidates_are_left_to_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    best = functools.partialmethod(lambda self, *given: pytest.fail("these are not few"))
    monkeypatch.setattr(rerank_numpy.NumpyReranker, "rerank", best)
    monkeypatch.setattr(rerank_numpy, "WORKSPACE", HEADS * 40 * DIM)
    assert (filled().search(draw(HEADS, 1, DIM), TOP_K).ids >= 0).all()


def test_copies_know_hubs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled()
    twin = store.copy()
    giants = 100 * draw(HEADS, 20, DIM, seed=3)
    twin.add(giants, giants)
    assert (both(twin, 1, monkeypatch).ids[..., 0] >= COUNT).all()
    assert (both(store, 1, monkeypatch).ids < COUNT).all()
