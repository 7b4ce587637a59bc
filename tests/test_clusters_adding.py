"""Adding to the `clusters` store, compiled by Numba, does what it does in torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.stores import GrowingRows
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.naive import draw
from fotmem_clusters import compiled as package
from fotmem_clusters.halving import halved
from fotmem_clusters.shapes import Covariances
from fotmem_clusters.steps import Steps, look_up
from fotmem_clusters.store import ClustersStore
from fotmem_clusters.tree import Tree

pytest.importorskip("numba", reason="Numba is not installed")
from fotmem_clusters.compiled import steps
from fotmem_clusters.compiled.steps import CompiledSteps

HEADS, DIM, TOKENS = 2, 16, 6000
KEYS, VALUES, _ = attention_data(HEADS, TOKENS, 1, DIM)
BFLOAT16 = pytest.param(torch.bfloat16, marks=pytest.mark.thorough)  # seconds to compile
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)


def grown(dtype: torch.dtype = torch.float32, **options: Any) -> Tree:
    store = create_store("clusters", num_heads=HEADS, head_dim=DIM, dtype=dtype, **options)
    assert isinstance(store, ClustersStore)
    store.add(KEYS.to(dtype), VALUES.to(dtype))
    return store._tree


def both(tree: Tree) -> tuple[Steps, Steps]:
    return CompiledSteps(tree), Steps(tree)


def some_clusters(tree: Tree) -> tuple[Tensor, Tensor]:
    """Return heads and rows of some clusters of each head."""
    nodes = tree.clusters.numbered(torch.arange(90).expand(HEADS, -1)).flatten()
    owners, held = tree.clusters.of(nodes)
    return owners[:, 0], held


def test_a_tree_takes_the_compiled_steps() -> None:
    assert type(grown()._steps) is CompiledSteps
    assert type(grown(torch.float16)._steps) is Steps


def test_all_steps_are_compiled_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not each when it is first needed: that would stop a later `add`."""
    tree, called = grown(), list[torch.dtype]()
    monkeypatch.setattr(steps, "nearest_in", lambda *tensors: called.append(tensors[3].dtype))
    steps._prepare.cache_clear()
    for _ in range(2):
        CompiledSteps(tree)
    assert called == [torch.float32]


@DTYPES
def test_the_nearest_clusters_of_groups_are_found(dtype: torch.dtype) -> None:
    tree = grown(dtype, capacity=4)
    vectors = draw(HEADS, 500, DIM, seed=1)
    count = int(tree.groups.counts.min())
    assert count > 9
    groups = draw(HEADS, 500, count, seed=2).topk(3, -1).indices
    means = tree.summaries.keys.float()
    distances = []
    for each in both(tree):
        found = each.nearest_in(vectors, groups)
        assert bool((tree.parents.gather(1, found)[..., None] == groups).any(2).all())
        near = means.gather(1, found[..., None].expand(-1, -1, DIM))
        distances.append((vectors - near).norm(dim=2))
    torch.testing.assert_close(*distances)


@DTYPES
def test_sets_are_halved_alike(dtype: torch.dtype) -> None:
    tree = grown(dtype)
    found, expected = (each.halve_rows(*some_clusters(tree)) for each in both(tree))
    assert float((found == expected).float().mean()) > 0.999
    groups = tree.groups.of(torch.arange(len(tree.groups.sizes.flatten())))
    every = groups[0][:, 0], groups[1]
    several = tree.groups.sizes.flatten() > 1
    few = [part[several] for part in every]
    found, expected = (each.halve_clusters(*few) for each in both(tree))
    assert float((found == expected).float().mean()) > 0.999
    assert bool(found.any(1).all())


def test_equal_rows_are_halved_too() -> None:
    store = create_store("clusters", num_heads=1, head_dim=DIM)
    assert isinstance(store, ClustersStore)
    store.add(*torch.ones(2, 1, TOKENS, DIM))
    held = torch.tensor([[0, 1, 2, 3, 4, -1], [5, 6, -1, -1, -1, -1]])
    found = CompiledSteps(store._tree).halve_rows(torch.zeros(2, dtype=torch.long), held)
    assert torch.equal(found, halved(torch.ones(2, 6, DIM), held >= 0))


@DTYPES
def test_summaries_are_the_same(dtype: torch.dtype) -> None:
    tree = grown(dtype)
    heads, held = some_clusters(tree)
    held[0] = -1  # a cluster without rows
    found, expected = (each.summary(heads, held) for each in both(tree))
    for name in found._fields:
        pair = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5, msg=name)


@DTYPES
def test_offsets_are_the_same(dtype: torch.dtype) -> None:
    tree = grown(dtype)
    rows, nodes = torch.arange(0, TOKENS - 500, 7), torch.arange(0, TOKENS - 500, 7) % 5
    found, expected = (each.offsets(1, rows, nodes, draw(5, 2 * DIM)) for each in both(tree))
    torch.testing.assert_close(found, expected)
    keys = look_up(tree.keys, torch.ones_like(rows), rows)
    torch.testing.assert_close(found[:, :DIM], keys - draw(5, 2 * DIM)[nodes, :DIM])


def test_each_kind_counts_its_own_rows() -> None:
    sums = Covariances(2, 3, DIM, torch.device("cpu"))
    kinds = draw(2, 50, 2 * DIM)
    sums.add(1, 1, list(kinds))
    assert not sums.products[0].any()
    assert not sums.products[1, 0].any()
    expected = kinds[..., :DIM].double().transpose(1, 2) @ kinds.double()
    torch.testing.assert_close(sums.products[1, 1:].double(), expected, rtol=1e-4, atol=1e-4)


def test_rows_in_a_directory_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled functions cannot read them; torch does it."""
    tree = grown()
    monkeypatch.setattr(GrowingRows, "is_mapped", True)
    monkeypatch.setattr(GrowingRows, "flat", None)
    found, expected = both(tree)
    rows = torch.arange(9), torch.zeros(9, dtype=torch.long), draw(1, 2 * DIM)
    assert torch.equal(found.offsets(0, *rows), expected.offsets(0, *rows))
    some = some_clusters(tree)
    assert torch.equal(found.halve_rows(*some), expected.halve_rows(*some))
    assert torch.equal(found.summary(*some).spreads, expected.summary(*some).spreads)


def test_trees_grow_alike_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = grown(capacity=4)
    monkeypatch.setattr(package, "_compiled", lambda: (None, None))
    plain = grown(capacity=4)
    assert type(plain._steps) is Steps
    sums = [(tree.nodes.sizes * tree.nodes.spreads).sum() for tree in (compiled, plain)]
    torch.testing.assert_close(*sums, rtol=0.02, atol=0)
    for part in ("axes", "variances", "slopes"):
        pair = (getattr(tree.shapes, part).float().abs().sum() for tree in (compiled, plain))
        torch.testing.assert_close(*pair, rtol=0.05, atol=0, msg=part)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = grown(capacity=4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    several = grown(capacity=4)
    for part in ("table", "sizes"):
        assert torch.equal(getattr(one.clusters, part), getattr(several.clusters, part)), part
    assert torch.equal(one.summaries.keys, several.summaries.keys)
