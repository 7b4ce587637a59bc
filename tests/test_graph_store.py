"""`GraphStore` around the simplest graph that its documentation allows, which is exact."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem.errors import DtypeError
from fotmem.stores import Graph, GraphStore, Hits, Ids, IndexedOptions, MemoryStore, Vectors
from fotmem.stores import indexed_store as indexed
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import draw


class ListGraph(Graph):
    """Looks at all vectors; returns as many columns as there are, none while it is empty."""

    def __init__(self) -> None:
        self.vectors = np.empty((0, 8), np.float32)
        self.ids = np.empty(0, np.int64)

    def add(self, vectors: Vectors, ids: Ids) -> None:
        assert len(vectors) == len(ids) > 0
        assert vectors.flags.c_contiguous
        assert vectors.dtype == np.float32
        assert (np.diff(np.concatenate([self.ids[-1:], ids])) > 0).all()
        self.vectors = np.concatenate([self.vectors, vectors])
        self.ids = np.concatenate([self.ids, ids])

    def search(self, queries: Vectors, count: int) -> tuple[Ids, Vectors]:
        assert len(queries) > 0
        assert queries.flags.c_contiguous
        assert queries.dtype == np.float32
        distances = ((queries[:, None].astype(np.float64) - self.vectors) ** 2).sum(2)
        order = distances.argsort(1)[:, :count]
        nearest = np.take_along_axis(distances, order, 1).astype(np.float32)
        return self.ids[order], nearest

    def copy(self) -> "ListGraph":
        twin = ListGraph()
        twin.vectors, twin.ids = self.vectors, self.ids
        return twin


class ListStore(GraphStore):
    def new_graph(self, head: int) -> Graph:
        return ListGraph()


def best(store: MemoryStore, queries: Tensor) -> Hits:
    """Find 16: as queries are not infinitely far out, a few of the nearest score a little less."""
    return Hits(*(found[..., :16] for found in store.search(queries, 64)))


@pytest.mark.parametrize("step", [7, 100, 500])
def test_a_graph_gets_the_documented_input(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    keys, queries = draw(2, 500, 8), draw(2, 20, 8, seed=1)
    keys[:, 300:310] = keys[:, 290:300]  # a chunk of copies only, where step is small
    keys[:, 400] = keys[:, 0]
    store = ListStore(num_heads=2, head_dim=8, options=IndexedOptions())
    for some in keys.split(step, 1):
        store.add(some, some)
    assert store.indexed_rows == 500
    expect_exact(best(store, queries), queries, keys, 16)
    twin = store.copy()
    twin.add(queries, queries)
    expect_exact(best(store, queries), queries, keys, 16)
    expect_exact(best(twin, queries), queries, torch.cat([keys, queries], 1), 16)


@pytest.mark.parametrize("method", ["search", "equal"])
def test_ids_that_are_not_int64_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    keys, asked = draw(2, 100, 8), getattr(ListGraph, method)
    store = ListStore(num_heads=2, head_dim=8, options=IndexedOptions())
    store.add(keys, keys)

    def unsigned(graph: Graph, *arguments: Vectors) -> object:
        found = asked(graph, *arguments)
        if method == "equal":
            return found.astype(np.uint64)
        return found[0].astype(np.uint64), found[1]

    monkeypatch.setattr(ListGraph, method, unsigned)
    message = rf"ids of ListGraph\.{method} must be int64, .*uint64.*; use ids\.astype\(np\.int64\)"
    with pytest.raises(DtypeError, match=message):
        store.search(keys[:, :3], 2) if method == "search" else store.add(keys, keys)
