"""Settings side by side: the figures of a store are those of the queries of the model."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fotmem
from fotmem import Memory
from fotmem.measure.evaluate import compare_settings as compared
from fotmem.measure.evaluate.store_quality import POSITIONS, CallQuality, call_quality
from fotmem.measure.grid import Grid, settings
from fotmem.stores import MemoryStore
from tests import folders
from tests.settings.sparse import TOP_K, passkeys
from tests.tiny import contents, one_thread  # noqa: F401 - a fixture


def naive(memory: Memory, layer: int, queries: NDArray[np.float64]) -> NDArray[np.float64]:
    """The figures of `CallQuality` by their definitions, in float64; queries ``[H, Q, D]``."""
    store = memory.store(layer)
    keys, values = (each.double().numpy() for each in contents(store))
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(store.head_dim)
    ages = np.clip((len(memory) - np.arange(len(memory))) / 64, 1, 64)
    scores = scores / memory.temperature - memory.decay * np.log(ages)
    weights = np.exp(scores)
    heads = np.arange(len(keys))[:, None, None]
    rows = np.arange(queries.shape[1])[:, None]
    best = np.argsort(-scores, axis=-1)[..., :TOP_K]
    every = getattr(getattr(store, "options", None), "every", 1)
    hidden = np.where(np.arange(len(memory)) % every, -np.inf, scores)
    found = np.argsort(-hidden, axis=-1)[..., :TOP_K]

    def out(ids: NDArray[np.int64]) -> NDArray[np.float64]:
        some = weights[heads, rows, ids]
        mixed = (some[..., None] * values[heads, ids]).sum(-2)
        return np.asarray(mixed / some.sum(-1, keepdims=True))

    def error(true: NDArray[np.float64]) -> float:
        apart = np.linalg.norm(out(found) - true, axis=-1)
        return float((apart / np.linalg.norm(true, axis=-1)).mean())

    whole = weights.sum(-1, keepdims=True)
    of_best = scores[heads, rows, best]
    bar = of_best[..., -1:] - 1e-5 * abs(of_best).max(-1, keepdims=True)  # as good as the k-th best
    recall = scores[heads, rows, found] >= bar
    shares = [(weights[heads, rows, ids] / whole).sum(-1).mean() for ids in (found, best)]
    return np.array([np.mean(recall), *shares, error(weights / whole @ values), error(out(best))])


@pytest.mark.parametrize(
    ("decay", "temperature", "dtype"),
    [(0.0, 1.0, torch.float32), (0.85, 0.5, torch.float32), (0.85, 0.5, torch.bfloat16)],
)
def test_figures_are_those_of_the_queries_of_the_model(
    decay: float,
    temperature: float,
    dtype: torch.dtype,
    built: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are those of the store, and not of how the model rounds."""
    asked: dict[MemoryStore, torch.Tensor] = {}
    attend = MemoryStore.attend

    def recorded(store: MemoryStore, queries: torch.Tensor, **options: Any) -> Any:
        asked[store] = queries
        return attend(store, queries, **options)

    calls: list[CallQuality] = []

    def judged(memory: Memory) -> CallQuality:
        queries = {layer: asked[memory.store(layer)] for layer in memory.layers}
        found = call_quality(memory)
        expected = [naive(memory, layer, each.double().numpy()) for layer, each in queries.items()]
        assert found == pytest.approx(np.mean(expected, 0), abs=1e-4)
        calls.append(found)
        return found

    monkeypatch.setattr(MemoryStore, "attend", recorded)
    monkeypatch.setattr(compared, "call_quality", judged)
    monkeypatch.setattr("fotmem.measure.evaluate.store_quality.POSITIONS", 1000)
    monkeypatch.setattr("fotmem.measure.evaluate.store_quality.STEP", 70)
    grid: Grid = {"sparse": {"every": [1, 3]}}
    options: dict[str, Any] = {"decay": decay, "temperature": temperature}
    options["model"] = folders.model(dtype=dtype)
    measured, _ = passkeys(settings(["exact", "sparse"], grid), **options)
    assert not measured.failures
    exact, whole, third = measured.rows
    assert len(calls) == 12
    for row in (exact, whole):
        assert row.store_quality is not None
        assert row.store_quality.recall == row.store_quality.attention_mass_recall == (1, 1, 1)
        assert row.store_quality.excess_error.value < 1e-5
        assert row.store_quality.error.value > 0.01
    assert third.store_quality is not None
    assert 0.25 < third.store_quality.recall.value < 0.45
    assert (
        third.store_quality.recall.low
        < third.store_quality.recall.value
        < third.store_quality.recall.high
    )
    assert third.store_quality.attention_mass_recall.value < 0.9
    assert third.store_quality.excess_error.value > 0.1
    found, most = (sum(call[i] for call in calls[5::2]) for i in (1, 2))
    assert third.store_quality.attention_mass_recall.value == pytest.approx(found / most)
    assert third.store_quality.error.value == pytest.approx(
        np.mean([call.error for call in calls[5::2]])
    )


def test_some_positions_of_a_long_call_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread evenly, the last among them."""
    seen = []
    search = MemoryStore.search

    def recorded(store: MemoryStore, queries: torch.Tensor, *given: Any, **options: Any) -> Any:
        seen.append(queries)
        return search(store, queries, *given, **options)

    model = folders.model(max_position_embeddings=256)
    with fotmem.attach(model, window=200, top_k=TOP_K) as memory:
        memory.read(range(5, 105))
        model(torch.arange(5, 155)[None])
        monkeypatch.setattr(MemoryStore, "search", recorded)
        call_quality(memory)
        assert memory.attached_model.last_trace is not None
        [asked, _, _] = memory.attached_model.last_trace.layers[memory.layers[0]]
    assert [each.shape for each in seen] == [(2, 2 * POSITIONS, 8)] * 2
    assert torch.equal(seen[0][0, POSITIONS - 1], asked[0, 0, -1])
    assert torch.equal(seen[0][1, POSITIONS], asked[0, 3, 0])


def test_an_index_finds_more_with_a_larger_nprobe(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr("fotmem.stores.indexed_store.EXACT_BELOW", 64)
    monkeypatch.setattr("fotmem.stores.indexed_store.RECENT", 0)
    grid: Grid = {"faiss-ivf": {"nlist": [24], "nprobe": [1, 24]}}
    measured, _ = passkeys(settings(["faiss-ivf"], grid), length=600)
    one, all_of_them = (row.store_quality for row in measured.rows)
    assert one is not None
    assert all_of_them is not None
    assert one.recall.high < all_of_them.recall.value == 1
    assert one.attention_mass_recall.value < 1
    assert all_of_them.attention_mass_recall.value == pytest.approx(1)
    assert one.excess_error.value > all_of_them.excess_error.value
