"""Names, tokens, keys and commits of strangers, and what is put in the place of an open memory."""

import shutil
from pathlib import Path

import pytest
import torch

import fotmem
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.disk import LayerShape, manifest_file
from fotmem.errors import InputError, StorageError
from tests import tiny
from tests.memory_rows import ROWS, assert_holds, document, draw, written
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture


def test_a_manifest_that_could_not_be_read_again_is_not_written(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_file, "LARGEST", 2**15)
    writer = MemoryDirectory.open(memory, writable=True)
    many = [document(n, n + 1, f"{n}") for n in range(ROWS)]
    with pytest.raises(StorageError, match=r"the manifest of .* would have .* bytes"):
        writer.commit(many)
    writer.close()
    assert_holds(MemoryDirectory.open(memory), ROWS)


@pytest.mark.parametrize("name", ["\ud800", "caf\udce9.txt"])
def test_names_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    memory = fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW)
    memory.save(tmp_path / "memory")
    with pytest.raises(InputError, match="document must be a name"):
        memory.read(tiny.ids(5), document=name)
    memory.read(tiny.ids(5), document="\x1b\x00")
    with pytest.raises(InputError, match="model must be a name"):
        memory.save(tmp_path / "copy", model=name)
    memory.close()
    assert fotmem.documents.Document(name, "text").name.isascii()
    assert [each.name for each in MemoryDirectory.open(tmp_path / "memory").manifest.documents] == [
        "\x1b\x00"
    ]


@pytest.mark.parametrize("token", [-5, tiny.VOCABULARY])
def test_tokens_that_the_model_does_not_have_are_refused(tmp_path: Path, token: int) -> None:
    memory = fotmem.attach(model := tiny.llama(), layers=LAYERS, window=WINDOW)
    memory.read(tiny.ids(20))
    memory.save(path := tmp_path / "memory")
    memory.close()
    writer = MemoryDirectory.open(path, writable=True)
    zeros = torch.zeros(1, dtype=torch.long)
    rows = {layer: (torch.zeros(2, 1, 8), torch.zeros(2, 1, 8)) for layer in LAYERS}
    writer.append(zeros + token, zeros, zeros, rows)
    writer.commit([*writer.manifest.documents, document(20, 21, "made up")])
    writer.close()
    for append_only in (False, True):
        with pytest.raises(StorageError, match=f"tokens in {path} are from .*made up"):
            fotmem.open_memory(path, model, append_only=append_only)


@pytest.mark.parametrize("shape", [(3, 8), (2, 4096)])
def test_heads_that_the_model_does_not_have_are_refused(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    memory = fotmem.attach(model := tiny.llama(), layers=LAYERS, window=WINDOW)
    memory.save(tmp_path / "memory")
    facts = memory.facts
    memory.close()
    layers = dict.fromkeys(LAYERS, LayerShape(*shape, torch.float32))
    MemoryDirectory.create(path := tmp_path / "made-up", layers, facts).close()
    message = f"layer 1 of {path} has {shape[0]} heads of {shape[1]} dimensions, and the model 2 of"
    with pytest.raises(StorageError, match=message):
        fotmem.open_memory(path, model)


def test_keys_that_no_model_computes_are_refused(tmp_path: Path) -> None:
    memory = fotmem.attach(model := tiny.llama(), layers=LAYERS, window=WINDOW)
    memory.save(path := tmp_path / "memory")
    memory.close()
    writer = MemoryDirectory.open(path, writable=True)
    bad = torch.full((2, 1, 8), torch.inf)
    zeros = torch.zeros(1, dtype=torch.long)
    writer.append(zeros, zeros, zeros, dict.fromkeys(LAYERS, (bad, bad)))
    writer.commit([document(0, 1)])
    writer.close()
    with pytest.raises(StorageError, match=f"{path}.*NaN or Inf"):
        fotmem.open_memory(path, model)


# What is put in the place of a memory that is open


def test_a_reader_does_not_follow_back(memory: Path, tmp_path: Path) -> None:
    """An older copy is no later commit, nor is another memory."""
    older = Path(shutil.copytree(memory, tmp_path / "older"))
    writer = MemoryDirectory.open(memory, writable=True)
    writer.append(*draw(ROWS, ROWS + 30))
    writer.commit([*writer.manifest.documents, document(ROWS, ROWS + 30, "new")])
    writer.close()
    reader = MemoryDirectory.open(memory)
    for put in (older, written(tmp_path / "other", 20)):
        shutil.copytree(put, memory, dirs_exist_ok=True)
        with pytest.raises(StorageError, match="an older copy, or another memory"):
            reader.refresh()
        assert len(reader) == ROWS + 30
    fork = MemoryDirectory.open(older, writable=True)  # read on in another way
    fork.append(*draw(ROWS, ROWS + 40))
    fork.commit([*fork.manifest.documents, document(ROWS, ROWS + 40, "other")])
    fork.close()
    shutil.copytree(older, memory, dirs_exist_ok=True)
    with pytest.raises(StorageError, match="an older copy, or another memory"):
        reader.refresh()
