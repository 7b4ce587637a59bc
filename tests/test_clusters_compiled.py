"""The `clusters` store compiled by Numba does what it does in torch."""

import builtins
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fotmem import create_store
from fotmem.stores import Bias, MemoryStore
from fotmem.testing.store.attention_data import attention_data
from fotmem.testing.store.naive import naive_attention
from fotmem_clusters import compiled as package
from fotmem_clusters.attending import Attended, attend_to_clusters
from fotmem_clusters.choosing import Limits
from fotmem_clusters.store import ClustersStore
from fotmem_clusters.view import ALL, Viewer

pytest.importorskip("numba", reason="Numba is not installed")
from fotmem_clusters.compiled import attending
from fotmem_clusters.compiled.kept import remove_stale
from fotmem_clusters.compiled.largest import blocks_of, take_largest
from fotmem_clusters.compiled.scalars import compiled, exp, float_of

HEADS, DIM, TOKENS, SCALE = 2, 16, 6000, 0.25
DATA = attention_data(HEADS, TOKENS, 24, DIM)
READS = {"little": Limits(0.0, 3), "until it is good": Limits(0.1, 60), "all": Limits(0.0, 10**6)}


def filled(dtype: torch.dtype = torch.float32, **options: Any) -> ClustersStore:
    store = create_store("clusters", num_heads=HEADS, head_dim=DIM, dtype=dtype, **options)
    assert isinstance(store, ClustersStore)
    store.add(*(each.to(dtype) for each in DATA[:2]))
    return store


def both(viewer: Viewer, queries: Tensor, **how: Any) -> tuple[Attended, Attended]:
    """Attend compiled, and in torch."""
    one = attending.attend_to_clusters(viewer, queries, errors=True, **how)
    return one, attend_to_clusters(viewer, queries, errors=True, **how)


@pytest.mark.parametrize("limits", READS.values(), ids=READS)
@pytest.mark.parametrize("biased", [False, True])
def test_it_attends_as_torch_does(limits: Limits, biased: bool) -> None:
    bias: Bias | None = torch.linspace(-9, 0, TOKENS).__getitem__ if biased else None
    viewer = Viewer(filled(capacity=32)._tree, bias, SCALE)
    found, expected = both(viewer, DATA[2], limits=limits, scale=SCALE)
    for name in Attended._fields:
        pair = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4, msg=name)


def test_scores_that_are_far_apart() -> None:
    """Of most clusters, exp cannot tell the weight from 0."""
    viewer = Viewer(filled(capacity=32)._tree)
    found, expected = both(viewer, 20 * DATA[2], limits=Limits(0.0, 60), scale=SCALE)
    assert float(expected.lse.max()) > 300
    torch.testing.assert_close(found.out, expected.out, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.lse, expected.lse, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("factor", [1e18, 1e30, 3e38])
def test_scores_that_overflow_do_no_harm(factor: float) -> None:
    viewer = Viewer(filled(capacity=4)._tree)
    queries = (DATA[2].double() * factor).clamp(-3e38, 3e38).float()
    for limits in (Limits(0.2, 100), Limits(0.0, 10**6)):
        found = attending.attend_to_clusters(viewer, queries, limits=limits, scale=1e4)
        assert found.out.shape == queries.shape


@pytest.mark.thorough
def test_bfloat16_is_read_as_it_is() -> None:
    """In torch, scores and weights are rounded to bfloat16, too."""
    viewer = Viewer(filled(torch.bfloat16, capacity=32)._tree)
    found, expected = both(viewer, DATA[2], limits=Limits(0.0, 10**6), scale=SCALE)
    torch.testing.assert_close(found.out, expected.out, rtol=1e-3, atol=1e-4)
    found, expected = both(viewer, DATA[2], limits=Limits(0.0, 8), scale=SCALE)
    difference = (found.out - expected.out).norm(dim=2) / expected.out.norm(dim=2)
    assert float(difference.mean()) < 0.02


def test_a_query_looks_at_the_groups_that_it_needs() -> None:
    """Of many groups; one query of one head looks at the same in torch."""
    keys, values, queries = attention_data(1, 13000, 8, DIM)
    store = create_store("clusters", num_heads=1, head_dim=DIM, capacity=4)
    assert isinstance(store, ClustersStore)
    store.add(keys, values)
    viewer = Viewer(store._tree)
    assert int(viewer.tree.groups.counts) > ALL
    opened = 0
    for query in queries.split(1, 1):
        found, expected = both(viewer, query / 8, limits=Limits(0.2, 40), scale=SCALE)
        opened += viewer.view(query / 8 * SCALE, Limits(0.2, 40)).nodes.shape[1] < viewer.most
        for name in Attended._fields:
            pair = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4, msg=name)
    assert opened > 4
    apart = [
        attending.attend_to_clusters(viewer, each, limits=Limits(0.2, 40), scale=SCALE).out
        for each in queries.split(1, 1)
    ]
    together = attending.attend_to_clusters(viewer, queries, limits=Limits(0.2, 40), scale=SCALE)
    torch.testing.assert_close(together.out, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_queries_in_parts_get_the_same(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = Viewer(filled(capacity=32)._tree)
    how: dict[str, Any] = {"limits": Limits(0.1, 60), "scale": SCALE, "errors": True}
    whole = attending.attend_to_clusters(viewer, DATA[2], **how)
    monkeypatch.setattr(attending, "WORKSPACE", 5 * viewer.most)
    monkeypatch.setattr(attending, "ENOUGH", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for found, expected in zip(
        attending.attend_to_clusters(viewer, DATA[2], **how), whole, strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("forgotten", [0, 100, TOKENS - 50])
def test_rows_that_wait_are_read(biased: bool, forgotten: int) -> None:
    """The last rows are in no cluster yet."""
    keys, values, queries = DATA
    store = filled(budget=10**6)
    assert store._tree.end < TOKENS
    store.forget(forgotten)
    table = torch.linspace(-9, 3, TOKENS)
    bias = table.__getitem__ if biased else None
    found = store.attend(queries, top_k=None, scale=SCALE, bias=bias)
    scores = queries.double() @ keys.double().transpose(1, 2)
    scores = (scores + table if biased else scores)[..., forgotten:] * SCALE
    expected = scores.softmax(2) @ values[:, forgotten:].double()
    torch.testing.assert_close(found.out.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.lse.double(), scores.logsumexp(2), rtol=1e-5, atol=1e-5)


def test_nothing_has_weight_where_a_bias_hides_all() -> None:
    store = filled()
    found = store.attend(
        DATA[2], top_k=None, scale=SCALE, bias=lambda ids: torch.full(ids.shape, -torch.inf)
    )
    assert not found.out.any()
    assert bool((found.lse == -torch.inf).all())


BFLOAT16 = pytest.param(torch.bfloat16, marks=pytest.mark.thorough)  # 20 seconds to compile


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16, torch.float16])
def test_the_store_compiles_what_it_can(dtype: torch.dtype) -> None:
    store = filled(dtype, budget=10**6)
    assert (store._compiled is None) == (dtype == torch.float16)
    keys, values = (each.to(dtype).float() for each in DATA[:2])
    expected, _ = naive_attention(DATA[2], keys, values, SCALE)
    found = store.attend(DATA[2], top_k=None, scale=SCALE).out
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def answers(store: MemoryStore) -> Tensor:
    package._compiled.cache_clear()
    try:
        return store.attend(DATA[2], top_k=None, scale=SCALE).out
    finally:
        package._compiled.cache_clear()


def test_without_numba_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled()
    expected = answers(store)
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    found = answers(store)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.equal(found, expected)


def test_a_numba_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store, imported = filled(), builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "fotmem_clusters.compiled.attending":
            raise ImportError("Numba needs NumPy 1.0 or less")
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.warns(UserWarning, match="without Numba, and slower: Numba needs NumPy 1.0"):
        found = answers(store)
    assert bool(found.isfinite().all())


def test_what_was_compiled_before_a_change_is_removed(tmp_path: Path) -> None:
    """Numba itself looks at the file of a function only, not at what that calls."""
    folder = tmp_path / "compiled" / "__pycache__"
    folder.mkdir(parents=True)
    old, new = folder / "old.nbi", folder / "new.nbc"
    for number, path in enumerate((old, tmp_path / "shapes.py", new)):
        path.touch()
        os.utime(path, (1000 + number, 1000 + number))
    remove_stale(tmp_path)
    assert not old.exists()
    assert new.exists()


@compiled
def exps(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = np.empty_like(numbers)
    for place in range(len(numbers)):
        found[place] = exp(numbers[place])
    return found


def test_exp_is_precise() -> None:
    numbers = np.linspace(-87, 88, 100_001, dtype=np.float32)
    expected = np.exp(numbers.astype(np.float64))
    assert float(np.abs(exps(numbers) / expected - 1).max()) < 4e-7
    assert exps(np.array([-np.inf, -1000], np.float32)).max() < 2e-38


@compiled
def order_of(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    left, found = numbers.copy(), np.empty(len(numbers), np.int64)
    largest = blocks_of(left)
    for place in range(len(numbers)):
        found[place] = take_largest(left, largest)
    return found


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_the_largest_are_taken_in_order(count: int) -> None:
    numbers = np.random.default_rng(count).integers(0, count, count).astype(np.float32)
    found = order_of(numbers)
    assert sorted(found) == list(range(count))
    assert list(numbers[found]) == sorted(numbers, reverse=True)


def test_only_compiled_functions_look_up_numbers() -> None:
    with pytest.raises(NotImplementedError, match="compiled"):
        float_of(1)  # type: ignore[no-untyped-call]
