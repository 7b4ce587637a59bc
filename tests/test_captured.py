"""The attention that benchmarks measure with is what the demo model keeps of real text."""

import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fotmem
from benchmarks import captured
from fotmem.files import python_reference
from fotmem.measure.reading import OVERLAP
from fotmem.training.tune import DISTANCE
from tests import tiny
from tests.tiny import one_thread  # noqa: F401 - tiny models are faster with it

TOKENS = 600


class Demo:
    """A tiny model in place of the demo model, and the texts that its tokenizer was given."""

    def __init__(self) -> None:
        self.model = tiny.llama(num_hidden_layers=24, max_position_embeddings=2 * DISTANCE)
        self.texts: list[str] = []

    def tokenizer(self, text: str, **options: Any) -> Any:
        self.texts.append(text)
        return SimpleNamespace(input_ids=[3 + ord(letter) % 90 for letter in text[:2000]])


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Demo:
    model = Demo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(captured, "version", lambda package: "1.0")
    monkeypatch.setattr(captured, "load_model", lambda name: (model.model, model.tokenizer))
    monkeypatch.setattr(captured, "QUERIES", 100)
    return model


def test_the_demo_model_reads_real_text(demo: Demo, tmp_path: Path) -> None:
    capture = captured.demo(TOKENS)
    assert capture.directory.parent == tmp_path / "fotmem" / "captured"
    [text] = demo.texts
    assert text.startswith(python_reference())
    assert Path(textwrap.__file__).read_text() in text
    read = demo.tokenizer(text).input_ids[: OVERLAP + TOKENS]
    with fotmem.attach(demo.model, layers=[17, 20, 23], window=512, distance=DISTANCE) as memory:
        memory.read(read, overlap=OVERLAP)
        for layer in (17, 20, 23):
            keys, values = tiny.contents(memory.store(layer))
            assert torch.equal(capture.rows(layer).keys, keys[:, OVERLAP:])
            assert torch.equal(capture.rows(layer).values, values[:, OVERLAP:])


def test_an_existing_capture_is_used(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as stopping:
        stopping.setattr(fotmem.Memory, "observe", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            captured.demo(TOKENS)
    captured.main(str(TOKENS))  # goes on
    monkeypatch.delattr(captured, "load_model")
    kept = captured.demo(TOKENS)
    assert kept.complete
    assert len(demo.texts) == 2
    for other in ({"tokens": TOKENS + 1}, {"tokens": TOKENS, "layers": (17, 20)}):
        with pytest.raises(NameError, match="load_model"):
            captured.demo(**other)
