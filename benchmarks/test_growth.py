"""The scripts that take minutes, once, small: what they measure is what they say."""

import functools

import pytest
import torch

import fotmem
from benchmarks import decode, growth, layers
from benchmarks.captured import LAYERS, Random
from benchmarks.conftest import Sources
from benchmarks.quality import best_scores, mass_of
from benchmarks.test_stores import STORES
from tests import tiny

MARKS = [4096, 6144]


@pytest.mark.parametrize("name", ["exact", *STORES])
def test_growing(name: str, sources: Sources) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    rows = list(growth.grow(name, sources("captured", False), MARKS))
    assert [row["tokens"] for row in rows] == MARKS
    for row in rows:
        assert 0.9 < row["mass"] <= 1.001
        assert row["longest_add"] >= row["median_add"] > 0
        assert min(row["one"], row["window"]) > 0
        assert ("effort" in row) == (name not in ("exact", "faiss-flat"))
    growth.show(rows)


@pytest.mark.parametrize("name", STORES)
def test_every_layer(name: str, sources: Sources) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    rows = list(layers.found(name, lambda layer: sources("captured", False), [0, 1], 5000, 2))
    assert [row["layer"] for row in rows] == [0, 1]
    assert [len(row["masses"]) for row in rows] == 2 * [1 if name == "faiss-flat" else 2]
    assert all(0.9 < mass <= 1.001 for row in rows for mass in row["masses"])


def test_mass_is_that_of_the_softmax() -> None:
    source = Random(2, dim=8, length=300)
    keys, values, queries = source.part(0)
    store = fotmem.create_store("exact", num_heads=2, head_dim=8)
    store.add(keys, values)
    some = queries[:, :5]
    weights = (some.double() @ keys.double().transpose(1, 2) * 0.3).softmax(-1)
    best = best_scores(store, some, 4)
    worse = store.search(some, 9).scores[..., 5:]
    expected = weights.sort(descending=True).values
    mass = mass_of(worse, best, store.attend(some, top_k=None, scale=0.3).lse, scale=0.3)
    assert mass == pytest.approx(
        float(expected[..., 5:9].sum(-1).mean() / expected[..., :4].sum(-1).mean()), rel=1e-4
    )


def test_decoding() -> None:
    model = tiny.llama(num_hidden_layers=24, max_position_embeddings=2048)
    source = Random(2 * len(LAYERS), dim=8, length=64)
    measure = functools.partial(decode.decode, model, tiny.ids(300)[0], "exact", source)
    rows = list(measure([100, 150]))
    assert [row["tokens"] for row in rows] == [0, 100, 150]
    assert all(row["low"] <= row["step"] <= row["high"] for row in rows)


def test_memory_is_filled_from_where_it_ends() -> None:
    model = tiny.llama(num_hidden_layers=24)
    source = Random(2 * len(LAYERS), dim=8, length=3000)
    with fotmem.attach(model, layers=LAYERS, window=16) as memory:
        decode.fill(memory, source, 0, 2500)
        decode.fill(memory, source, 2500, 3500)
        keys, _ = tiny.contents(memory.store(LAYERS[1]))
    whole = torch.cat([source.part(0).keys, source.part(1).keys], 1)[2:4, :3500]
    assert torch.equal(keys, whole)
