"""Training, captures and memory layers work with families other than LLaMA."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.crossbatch import Crossbatch
from fotmem.errors import UnsupportedError
from fotmem.measure.capture import capture_model
from fotmem.models.load import load_model
from tests import families, folders
from tests.tiny import contents, difference, one_thread  # noqa: F401 - a fixture

TOKENS = torch.randint(1, 50, (200,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["phi3", "mixtral"])
def test_a_family_is_trained_saved_and_loaded(family: str, tmp_path: Path) -> None:
    base, tuned, book = tmp_path / "base", tmp_path / "tuned", tmp_path / "book.txt"
    families.tiny(family, vocab_size=folders.VOCABULARY).save_pretrained(base)
    folders.tokenizer().save_pretrained(base)
    book.write_text(folders.PROSE[:4000], encoding="utf-8")
    options = fotmem.TrainingOptions(
        layers=(1,), window=16, windows=2, steps=2, d=(1, 2), bank_windows=(0, 1), facts=0.0
    )
    fotmem.train(*load_model(str(base)), [book], tuned, options=options)
    model, tokenizer = load_model(str(tuned))
    assert type(model).__name__ == type(families.tiny(family)).__name__
    with fotmem.attach(model, window=16) as memory:
        memory.read(tokenizer("The captain sailed to the island.").input_ids)
        assert memory.layers == (1,)
        assert len(memory) > 0


def test_layers_with_a_sliding_window_are_measured_too() -> None:
    model = families.tiny("gemma3", vocab_size=folders.VOCABULARY, max_position_embeddings=1024)
    found = fotmem.find_memory_layers(model, folders.tokenizer(), trials=1)
    sliding, full = found.scores
    assert sliding == 0  # the number lies before its window
    assert full > 0
    assert found.memory_layers == [1]


def test_crossbatch_trains_what_encodes_positions_by_type_of_layer() -> None:
    model = families.tiny("gemma3").requires_grad_(True)
    with Crossbatch(model, [0, 1]):
        tokens = TOKENS[:64].reshape(4, 16)
        model(tokens, labels=tokens).loss.backward()
    for layer in model.model.layers:
        for name, weight in layer.self_attn.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.any(), name


def test_crossbatch_refuses_rope_that_changes_as_a_memory_does() -> None:
    model = families.tiny("phi3", original_max_position_embeddings=32)
    with Crossbatch(model, [1]) as crossbatch:
        tokens = TOKENS[:66].reshape(2, 33)
        with pytest.raises(UnsupportedError, match="RoPE of type 'longrope' beyond 32 positions"):
            model(tokens)
        model(tokens[:, :32])
        crossbatch.distance = 31
        model(tokens[:, :32])
        crossbatch.distance = 32
        with pytest.raises(UnsupportedError, match="RoPE of type 'longrope' beyond 32 positions"):
            model(tokens[:, :32])


def test_a_capture_holds_what_a_memory_holds(tmp_path: Path) -> None:
    model = families.tiny("smollm3")
    window: dict[str, Any] = {"layers": [0, 1], "window": 32}
    capture = capture_model(
        model, TOKENS.tolist(), tmp_path / "capture", tokens=96, queries=8, overlap=8, **window
    )
    with fotmem.attach(model, **window) as memory:
        memory.read(TOKENS[: 96 + 8], overlap=8)
        for layer in memory.layers:
            keys, values = contents(memory.store(layer))
            rows = capture.rows(layer)
            assert difference(rows.keys, keys[:, 8:]) <= 1e-5
            assert difference(rows.values, values[:, 8:]) <= 1e-5
