"""Tests of what results must not depend on."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from fotmem.stores.hits import Hits
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.expectations import expect_softmax_of, fail, fault
from fotmem.testing.store.hits import expect_contents, expect_exact, expect_same
from fotmem.testing.store.interleaved import together
from fotmem.testing.store.naive import draw
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

SCALE = 0.25
ROUNDS = 6
"""Times that several threads ask at the same time."""
NAMES = ("scores", "out of top 12", "lse of top 12", "out of all", "lse of all")


class Independence:
    """What results do not depend on."""

    @pytest.mark.parametrize("pieces", [1, 2, 3, 7, 64, 100, 255, 300])
    def test_chunks_of_adding(self, stores: Stores, pieces: int) -> None:
        """Adding the same keys in other pieces gives the same answers."""
        keys, values = pair(300)
        store = stores.filled(keys, values, cuts=range(pieces, 300, pieces))
        expect_contents(store, keys, values)

    def test_what_was_added_is_found_at_once(self, stores: Stores) -> None:
        """A search finds all keys added before it, also if searches came in between."""
        keys = draw(HEADS, 120, DIM) * torch.linspace(1, 3, 120)[:, None]
        values, queries = draw(HEADS, 120, DIM, seed=1), draw(HEADS, 3, DIM, seed=2)
        store = stores.empty()
        for end in (1, 2, 3, 10, 50, 51, 119, 120):
            begin = store.next_id
            store.add(keys[:, begin:end], values[:, begin:end])
            expect_exact(store.search(queries, 5), queries, keys[:, :end], 5)
            own = keys[:, begin:end]
            expect_exact(store.search(own, 1), own, keys[:, :end], 1)
            expect_contents(store, keys[:, :end], values[:, :end])

    def test_other_queries(self, stores: Stores) -> None:
        """A query's answer does not depend on the other queries of a call, nor on their order."""
        keys, values = pair(300)
        store = stores.filled(keys, values)
        queries = draw(HEADS, 33, DIM, seed=5) * torch.logspace(-2, 1, 33)[:, None]
        hits = store.search(queries, 12)
        parts = {top_k: store.attend(queries, top_k=top_k, scale=SCALE) for top_k in (12, None)}
        groups = [torch.tensor([i]) for i in (0, 7, 32)]
        groups += [torch.arange(33).flip(0), torch.arange(20), torch.tensor([3, 3, 3])]
        for group in groups:
            asked = queries[:, group]
            part = Hits(hits.ids[:, group], hits.scores[:, group])
            what = f"queries {group.tolist()} alone and among 33"
            expect_same(store.search(asked, 12), part, asked, keys, what)
            for top_k, (out, lse) in parts.items():
                other = store.attend(asked, top_k=top_k, scale=SCALE)
                _expect_close(other.out, out[:, group], f"out of {what} (top_k={top_k})")
                _expect_close(other.lse, lse[:, group], f"lse of {what} (top_k={top_k})")

    def test_fewer_hits(self, stores: Stores) -> None:
        """With a smaller `top_k`, hits are the first of those with a larger one."""
        keys, queries = draw(HEADS, 300, DIM), draw(HEADS, 9, DIM, seed=1)
        store = stores.filled(keys, keys)
        many = store.search(queries, 64)
        for top_k in (1, 2, 31, 63):
            first = Hits(many.ids[..., :top_k], many.scores[..., :top_k])
            few = store.search(queries, top_k)
            expect_same(few, first, queries, keys, f"top_k={top_k} and the first of top_k=64")

    @pytest.mark.parametrize("threads", [1, 2, 4])
    def test_number_of_threads(self, stores: Stores, threads: int) -> None:
        """Answers do not depend on the number of torch's threads."""
        keys, values = pair(300)
        with _threads(threads):
            expect_contents(stores.filled(keys, values, cuts=(128,)), keys, values)

    def test_asking_twice(self, stores: Stores) -> None:
        """The same search returns the same answer twice, and does not change the store."""
        keys, values, queries = (draw(HEADS, 200, DIM, seed=seed) for seed in range(3))
        store = stores.filled(keys, values)
        for name, first, second in zip(
            NAMES, _ask(store, queries), _ask(store, queries), strict=True
        ):
            _expect_close(first, second, f"{name} of the same question, asked twice,")
        expect_contents(store, keys, values)

    def test_building_twice(self, stores: Stores) -> None:
        """Two stores with the same keys give the same answers."""
        keys, values, queries = (draw(HEADS, 250, DIM, seed=seed) for seed in range(3))
        keys[:, 100:] = keys[:, :150]
        values[:, 100:] = values[:, :150]
        one, other = (_ask(stores.filled(keys, values, cuts=(99, 200)), queries) for _ in range(2))
        for name, first, second in zip(NAMES, one, other, strict=True):
            _expect_close(first, second, f"{name} of two stores with the same keys")

    def test_stores_share_nothing(self, stores: Stores) -> None:
        """Two stores made by the same factory do not see each other's keys."""
        keys, values = pair(60)
        one, other = stores.empty(), stores.empty()
        one.add(keys[:, :40], values[:, :40])
        other.add(keys[:, 40:], values[:, 40:])
        expect_contents(one, keys[:, :40], values[:, :40])
        expect_contents(other, keys[:, 40:], values[:, 40:])
        stores.close(one)
        expect_contents(other, keys[:, 40:], values[:, 40:])

    def test_stores_share_no_answers(self, stores: Stores) -> None:
        """Two stores with the same queries answer from their own keys, also at the same time."""
        keys, values, queries = (draw(HEADS, 60, DIM, seed=seed) for seed in range(3))
        queries = queries[:, :5]
        halves = [(keys[:, half], values[:, half]) for half in (slice(0, 30), slice(30, 60))]
        both = [stores.filled(*half) for half in halves]

        def ask(which: int) -> None:
            mine, theirs = halves[which]
            hits = both[which].search(queries, 6)
            expect_exact(hits, queries, mine, 6)
            part = both[which].attend(queries, top_k=6, scale=SCALE)
            expect_softmax_of(hits, part, queries, theirs, SCALE, 0)
            found.append((which, hits))

        found: list[tuple[int, Hits]] = []
        with fault("a store answers from the keys of another store of its class"):
            for which in (0, 1, 0, 1):
                ask(which)
            for which, hits in found:
                expect_exact(hits, queries, halves[which][0], 6)
            for _ in range(ROUNDS):  # threads meet best when they begin
                together(both[0], [functools.partial(ask, which) for which in (0, 1, 0, 1)])
            for which, hits in found:
                expect_exact(hits, queries, halves[which][0], 6)


def _ask(store: MemoryStore, queries: Tensor) -> list[Tensor]:
    best, dense = (store.attend(queries, top_k=top_k, scale=SCALE) for top_k in (12, None))
    return [store.search(queries, 12).scores, *best, *dense]


def _expect_close(one: Tensor, other: Tensor, what: str) -> None:
    __tracebackhide__ = True
    off = (one - other).abs().max().item() if one.numel() else 0.0
    if not off <= 1e-5 * max(1.0, other.abs().max().item()):
        fail(f"{what} differ by {off:.3g}")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
