"""What takes long is logged, by loggers below `fotmem`."""

import logging
from pathlib import Path

import pytest

import fotmem
from fotmem.models.load import load_model
from fotmem.stores import indexed_store
from tests import folders
from tests.tiny import ids, one_thread  # noqa: F401 - a fixture


def test_a_model_a_commit_and_an_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexed_store, "EXACT_BELOW", 16)
    folder, kept = str(folders.write(tmp_path / "model")), str(tmp_path / "memory")
    with caplog.at_level(logging.INFO, "fotmem"):
        model, _ = load_model(folder)
        with fotmem.attach(model, layers=[1], window=32) as memory:
            memory.save(kept)
            memory.read(ids(100))
            memory.close()
        for _ in range(2):
            fotmem.open_memory(kept, model, "faiss-ivf").close()
    assert [record.levelno for record in caplog.records] == [logging.INFO] * len(caplog.records)
    assert [(record.name, record.message) for record in caplog.records] == [
        ("fotmem.models.load", f"loading the model {folder}"),
        ("fotmem.memory.saving", f"committed: {kept} holds 0 tokens"),
        ("fotmem.memory.saving", f"committed: {kept} holds 100 tokens"),
        *(
            ("fotmem.memory.kept_indexes", f"the index of faiss-ivf, layer 1, was {how}: {kept}")
            for how in ("built", "loaded")
        ),
    ]
