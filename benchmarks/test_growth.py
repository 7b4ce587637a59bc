"""The slow scripts, run once with small data."""

import pytest
import torch

import fotmem
from benchmarks import decode, growth, layers
from benchmarks.test_stores import STORES
from fotmem.measure.capture import Capture
from tests import tiny

MARKS = [1024, 1500]


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for script in (growth, decode):
        monkeypatch.setattr(script, "STEP", 512)


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("name", ["exact", *STORES])
def test_growing(name: str, small: Capture) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    rows = list(growth.grow(name, small, MARKS))
    assert [row["tokens"] for row in rows] == MARKS
    for row in rows:
        assert 0.9 < row["attention_mass_recall"] <= 1.001
        assert row["max_insert_latency"] >= row["median_insert_latency"] > 0
        assert min(row["latency"], row["window_latency"]) > 0
        assert ("effort" in row) == (name not in ("exact", "faiss-flat"))
    growth.show(rows)


@pytest.mark.usefixtures("short_steps")
def test_heads_of_all_layers_stand_side_by_side(
    small: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "HEADS", 3)
    blocks = list(growth.blocks(small, 1200))
    assert [rows.keys.shape for rows in blocks] == [(3, 512, 8), (3, 512, 8), (3, 176, 8)]
    for head, (layer, place) in enumerate([(1, 0), (1, 1), (3, 0)]):
        keys, values = small.rows(layer, 0, 1200)
        assert torch.equal(torch.cat([rows.keys[head] for rows in blocks]), keys[place])
        assert torch.equal(torch.cat([rows.values[head] for rows in blocks]), values[place])
        for tokens, size in ((500, 1024), (1024, 1024), (1025, 1500), (1500, 1500)):
            asked = growth.queries_after(small, tokens)
            assert len(asked) == 3
            assert torch.equal(asked[head], small.queries(layer, size)[place])


@pytest.mark.parametrize("name", STORES)
def test_every_layer(name: str, small: Capture) -> None:
    if not fotmem.available_stores()[name].available:
        pytest.skip(fotmem.available_stores()[name].reason)
    rows = list(layers.found(name, small, 2))
    assert [row["layer"] for row in rows] == [1, 3]
    assert [len(row["attention_mass_recalls"]) for row in rows] == 2 * [
        1 if name == "faiss-flat" else 2
    ]
    assert all(0.9 < mass <= 1.001 for row in rows for mass in row["attention_mass_recalls"])


def test_decoding(small: Capture) -> None:
    model = tiny.llama(max_position_embeddings=2048)
    rows = list(decode.decode(model, tiny.ids(300)[0], "exact", small, [100, 150]))
    assert [row["tokens"] for row in rows] == [0, 100, 150]
    assert all(row["low"] <= row["step"] <= row["high"] for row in rows)


@pytest.mark.usefixtures("short_steps")
def test_memory_is_filled_with_what_was_captured(small: Capture) -> None:
    for layer in tiny.LAYERS:
        keys, values = tiny.contents(decode.filled("exact", small, layer, 1300))
        assert torch.equal(keys, small.rows(layer).keys[:, :1300])
        assert torch.equal(values, small.rows(layer).values[:, :1300])
