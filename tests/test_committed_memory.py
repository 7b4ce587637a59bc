"""Memories that an earlier version of fotmem wrote, and users have: they are opened for ever."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from recipes import committed_memory
from recipes.committed_memory import KINDS, opened
from tests.tiny import one_thread  # noqa: F401 - a fixture

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / committed_memory.EXPECTED).read_text("utf-8"))
EVERY = pytest.mark.parametrize("name", KINDS)


def packed(name: str) -> Path:
    return DATA / committed_memory.packed(name).name


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    with zipfile.ZipFile(packed(name)) as file:
        file.extractall(tmp_path / "memory")
    return tmp_path / "memory"


def assert_as_expected(memory: fotmem.Memory, expected: dict[str, Any]) -> None:
    found = committed_memory.facts(memory)
    answers, right = found.pop("answers"), dict(expected)
    for top_k, logits in right.pop("answers").items():
        mine, theirs = torch.tensor(answers[top_k]), torch.tensor(logits)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert found == right


@EVERY
def test_it_opens_and_answers_as_it_did(name: str, folder: Path) -> None:
    """Packed and unpacked: tokens, documents, keys and values bit for bit, and answers."""
    for path in (packed(name), folder):
        with opened(path) as memory:
            assert_as_expected(memory, EXPECTED[name])
            assert memory.directory == str(path)
    assert verify(folder).damages == ()


@EVERY
def test_it_is_what_it_is_meant_to_be(name: str, folder: Path) -> None:
    """It has a part and pieces, and was compacted; a document is removed, one has no name."""
    manifest = MemoryDirectory.open(folder).manifest
    for log in (manifest.tokens, *manifest.layers):
        assert log.parts
        assert log.pieces
    assert manifest.compactions == 1
    assert [(each.name, each.is_removed) for each in manifest.documents] == [
        ("harbour.txt", False),
        ("letter.txt", False),
        ("notes.txt", True),
        ("", False),
    ]
    kind = KINDS[name]
    for layer in manifest.layers:
        assert (layer.shape.dtype, layer.quantization) == kind
        assert layer.head_dim > 32  # more than a group


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough) if n != "int4" else n for n in KINDS]
)
def test_it_can_be_read_into(name: str, folder: Path) -> None:
    with opened(folder, writable=True) as memory:
        memory.read(committed_memory.tokenized("draft.txt"), overlap=3)
        expected = committed_memory.facts(memory)
        memory.close()
    with opened(folder) as memory:
        right = committed_memory.answer(memory)
        assert_as_expected(memory, expected)
        assert [each.name for each in memory.documents][-1] == "draft.txt"
    assert compact(folder).dropped_documents == 1
    with opened(folder) as memory:
        torch.testing.assert_close(committed_memory.answer(memory), right)


def test_all_are_small() -> None:
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 200_000


@pytest.mark.parametrize("name", ["plain"])
def test_a_newer_one_is_refused(name: str, folder: Path) -> None:
    manifest = folder / "zarr.json"
    text = manifest.read_text("utf-8")
    assert '"version": 1' in text
    manifest.write_text(text.replace('"version": 1', '"version": 2'), "utf-8")
    shutil.rmtree(folder / "layers")
    words = r"memory has format version 2 in zarr\.json, this fotmem knows 1; upgrade fotmem"
    for use in (opened, verify, compact):
        with pytest.raises(StorageError, match=words):
            use(folder)


@pytest.mark.thorough
@EVERY
def test_the_recipe_writes_it(name: str, tmp_path: Path) -> None:
    """Keys of another machine may differ in the last bit, and so may what is quantized."""
    committed_memory.write(tmp_path / "again", KINDS[name])
    with opened(tmp_path / "again") as memory:
        found = committed_memory.facts(memory)
    assert found["tokens"] == EXPECTED[name]["tokens"]
    assert found["documents"] == EXPECTED[name]["documents"]
    for top_k, logits in EXPECTED[name]["answers"].items():
        mine, theirs = torch.tensor(found["answers"][top_k]), torch.tensor(logits)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.5)
