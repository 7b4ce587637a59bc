"""Damage of a memory's directory: listed by `verify`, dropped by `repair`."""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fotmem
from fotmem.directory import memory_directory
from fotmem.directory.manifest import FORMAT
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.disk import GroupFiles, ManifestFile, ManifestFormat, open_storage
from fotmem.disk.byte_range import ByteRange
from fotmem.disk.file_tree import FileTree
from fotmem.errors import StorageError
from tests import tiny
from tests.commands import call, refusal
from tests.memory_rows import FACTS, ROWS, SHAPES, assert_holds, document, draw, names


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def block_of(memory: Path, array: str) -> Path:
    """Return the file of the second block of an array."""
    folder, name = array.rsplit("/", 1)
    return next(file for file in (memory / folder).glob(f"*/{name}/c.0.1*"))


def test_nothing_is_damaged(memory: Path) -> None:
    before = {name: (memory / name).read_bytes() for name in names(memory)}
    assert verify(memory).damages == repair(memory).damages == ()
    assert {name: (memory / name).read_bytes() for name in names(memory)} == before


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
@pytest.mark.parametrize("array", ["layers/03/keys", "layers/07/values", "tokens/ids"])
def test_damage_is_listed_and_dropped(memory: Path, array: str, how: str) -> None:
    file = block_of(memory, array)
    if how == "flip":
        flip(file, 3)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    found = verify(memory)
    assert found.damages
    assert all(file.relative_to(memory).as_posix() in each.problem for each in found.damages)
    lost = {"flip": ["60.txt"], "cut": [], "gone": [f"{n}.txt" for n in range(60, 128, 20)]}[how]
    assert [each.name for each in found.lost] == lost
    assert repair(memory) == found
    assert verify(memory).damages == ()
    mended = MemoryDirectory.open(memory)
    assert names(memory) - {".lock"} == mended.files()
    assert [each.name for each in mended.manifest.documents if each.is_removed] == lost
    expected = draw(0, ROWS)
    for each in mended.manifest.documents:
        if each.is_removed:
            continue
        rows = slice(each.first, each.stop)
        for column, right in zip(mended.tokens(each.first, each.stop), expected[:3], strict=True):
            assert torch.equal(column, right[rows])
        for layer, (keys, values) in expected[3].items():
            for first, *pair in mended.blocks(layer, each.first, each.stop):
                here = slice(first, first + pair[0].shape[1])
                assert torch.equal(pair[0], keys[:, here])
                assert torch.equal(pair[1], values[:, here])


def test_descriptions_are_written_again(memory: Path) -> None:
    for file in (*memory.glob("layers/03/*/keys/zarr.json"), *memory.glob("tokens/*/zarr.json")):
        file.write_text("{}", "utf-8")
    with pytest.raises(
        StorageError, match=r"fotmem memory verify .* lists .* fotmem memory repair"
    ):
        MemoryDirectory.open(memory)
    assert not repair(memory).lost
    assert_holds(MemoryDirectory.open(memory), ROWS)


def test_any_flip_is_listed_and_repaired(memory: Path) -> None:
    """Also of a byte that only other programs read."""
    files = [name for name in sorted(names(memory)) if "/c." in name]
    for number, name in enumerate(files):
        before = (memory / name).read_bytes()
        flip(memory / name, number * 7919 % len(before))
        assert [name in each.problem for each in verify(memory).damages] == [True], name
        (memory / name).write_bytes(before)


def test_all_is_listed_in_one_run(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A description of a folder, one of an array, a chunk, and an index that is none."""
    (memory / "layers/zarr.json").write_text("{}", "utf-8")
    (memory / "layers/03/zarr.json").unlink()
    description = next(memory.glob("layers/07/*/keys/zarr.json"))
    description.write_text("{}", "utf-8")
    flip(block_of(memory, "layers/03/values"), 3)
    index = memory / "indexes/hnsw/07"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"dear")
    ended = call(capsys, "memory", "verify", memory, "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["tokens"], found["documents"]) == (1, ROWS, 9)
    assert [(each["file"], each["tokens"], each["remedy"]) for each in found["damages"]] == [
        ("layers/zarr.json", None, "fotmem memory repair writes it again"),
        ("layers/03/zarr.json", None, "fotmem memory repair writes it again"),
        ("indexes/hnsw/07", None, "it will be rebuilt"),
        (
            block_of(memory, "layers/03/values").relative_to(memory).as_posix(),
            [64, 80],
            "fotmem memory repair drops it",
        ),
        (
            description.relative_to(memory).as_posix(),
            None,
            "fotmem memory repair drops it",
        ),
    ]
    assert found["lost"] == [{"document": "60.txt", "tokens": 20}]
    repair(memory)
    assert verify(memory).damages == ()
    assert not index.exists()
    assert len(MemoryDirectory.open(memory)) == ROWS


def test_a_damaged_manifest_is_listed_with_what_else_is(
    memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (memory / "layers/zarr.json").write_text("{}", "utf-8")
    (memory / "indexes").mkdir()
    (memory / "indexes/hnsw").mkdir()
    (memory / "indexes/hnsw/03").write_bytes(b"dear")
    for damage in ("{}", "", None):
        (memory / "zarr.json").unlink()
        if damage is not None:
            (memory / "zarr.json").write_text(damage, "utf-8")
        ended = call(capsys, "memory", "verify", memory)
        assert ended.code == 1
        manifest, folder, index, state = ended.out.splitlines()
        assert manifest.startswith(f"zarr.json of {memory} is damaged (")
        assert manifest.endswith("; restore it from a copy")
        assert folder.startswith(f"layers/zarr.json of {memory} is damaged (")
        assert index.startswith(f"the index indexes/hnsw/03 of {memory}: it is damaged")
        assert index.endswith("; it will be rebuilt")
        assert state == f"{memory}: 3 damaged; its tokens and documents are not known"
        if damage is None:
            break
        with pytest.raises(StorageError, match=r"zarr\.json of .* restore it from a copy"):
            repair(memory)


def test_what_a_writer_removes_meanwhile_is_no_damage(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer replaces a piece between the reading of the manifest and of the piece."""
    load = ManifestFormat.load

    def late(self: Any, storage: Any, **how: Any) -> Any:
        file = load(self, storage, **how)
        monkeypatch.setattr(ManifestFormat, "load", load)
        writer = MemoryDirectory.open(memory, writable=True)
        writer.append(*draw(ROWS, ROWS + 40))
        writer.commit([*writer.manifest.documents, document(ROWS, ROWS + 40, "new")])
        writer.close()
        return file

    monkeypatch.setattr(ManifestFormat, "load", late)
    found = verify(memory)
    assert (found.tokens, found.damages) == (ROWS + 40, ())


def test_names_do_not_control_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = MemoryDirectory.create(path := tmp_path / "memory", SHAPES, FACTS)
    writer.append(*draw(0, 40))
    writer.commit([document(0, 40, "\x1b[2J\x1b]0;owned\x07\u202etxt.\r\x9b1m\n0 damaged")])
    writer.close()
    flip(next(path.glob("layers/03/*/keys/c.0.0.0")), 3)
    out = call(capsys, "memory", "verify", path).out + call(capsys, "memory", "repair", path).out
    assert r"\x1b[2J\x1b]0;owned\x07\u202etxt.\r\x9b1m\n0 damaged: 40 tokens, would be lost" in out
    assert not set(out) & set("\x1b\x07\u202e\r\x9b")


def test_stopped_halfway_it_is_as_it_was(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(block_of(memory, "layers/03/keys"), 3)
    before = verify(memory)
    with monkeypatch.context() as patch:
        patch.setattr(GroupFiles, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            repair(memory)
    assert verify(memory) == before
    assert repair(memory) == before
    assert verify(memory).damages == ()


def test_what_cannot_be_mended_is_refused(memory: Path, tmp_path: Path) -> None:
    for use in (verify, repair):
        with pytest.raises(StorageError):
            use(tmp_path / "missing")
    (memory / "zarr.json").write_text(json.dumps({}), "utf-8")
    with pytest.raises(StorageError, match=r"zarr\.json of .* is damaged"):
        repair(memory)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_what_cannot_be_read_now_is_no_damage(
    memory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    read = FileTree.read

    def failing(self: FileTree, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        if any("layers/03" in each.key and "/c." in each.key for each in ranges):
            raise OSError(number, os.strerror(number), ranges[0].key)
        return read(self, ranges)

    with monkeypatch.context() as patch:
        patch.setattr(FileTree, "read", failing)
        for use in (verify, repair):
            with pytest.raises(StorageError, match=f"cannot read layers/03.*{os.strerror(number)}"):
                use(memory)
    assert repair(memory).damages == ()
    assert_holds(MemoryDirectory.open(memory), ROWS)


def test_sizes_that_are_made_up_are_refused(memory: Path) -> None:
    storage = open_storage(memory)
    manifest, identity = FORMAT.load(storage)
    wide = [each.model_copy(update={"num_heads": 2**12}) for each in manifest.layers]
    made_up = manifest.model_copy(update={"layers": tuple(wide)})
    FORMAT.write(storage, ManifestFile(made_up, identity))
    storage.close()
    files = names(memory)
    with pytest.raises(StorageError, match=r"what is damaged had \d[\d,]{9,} bytes, as its zarr"):
        repair(memory)
    assert names(memory) == files


def test_an_empty_document_beside_a_damaged_one_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    writer = MemoryDirectory.create(path, SHAPES, FACTS)
    writer.append(*draw(0, 30))
    writer.commit([document(0, 10, "a"), document(10, 10, "empty"), document(10, 30, "b")])
    writer.close()
    flip(next(path.glob("layers/03/*/keys/c.*")), 5)  # of a piece: all of it is one chunk
    assert [each.name for each in repair(path).lost] == ["a", "b"]
    kept = MemoryDirectory.open(path).manifest.documents
    assert [each.name for each in kept if not each.is_removed] == ["empty"]


def test_answers_come_from_what_is_left(tmp_path: Path) -> None:
    """A memory whose damaged document was dropped answers as one that never knew it."""
    path = tmp_path / "memory"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_directory, "BLOCK", 16)
        memory = fotmem.attach(tiny.llama(), layers=tiny.LAYERS, window=tiny.WINDOW, top_k=4)
        memory.save(path)
    for seed, name in enumerate("abc"):
        memory.read(tiny.ids(32, seed=seed), document=name)
    memory.close()
    flip(next(path.glob("layers/01/*/keys/c.0.0.0")).with_name("c.0.2.0"), 3)
    with pytest.raises(StorageError, match=r"head 0 of layers/01.* fotmem memory repair .* drops"):
        fotmem.open_memory(path, tiny.llama())
    assert [each.name for each in repair(path).lost] == ["b"]
    without = fotmem.attach(other := tiny.llama(), layers=tiny.LAYERS, window=tiny.WINDOW, top_k=4)
    without.read(tiny.ids(32), document="a")
    without.read(tiny.ids(32, seed=2), document="c")
    again = fotmem.open_memory(path, model := tiny.llama(), writable=True)
    assert [each.name for each in again.documents] == ["a", "c"]
    question = tiny.ids(9, seed=5)
    torch.testing.assert_close(model(question).logits, other(question).logits)
    again.read(tiny.ids(32, seed=1), document="b")
    assert [each.name for each in again.documents] == ["a", "c", "b"]
    again.close()


def test_the_commands(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "memory", "verify", memory)
    assert (ended.code, ended.out) == (
        0,
        f"{memory}: 173 tokens, 9 documents, nothing is damaged\n",
    )
    flip(block_of(memory, "layers/07/keys"), 3)
    ended = call(capsys, "memory", "verify", memory)
    damage, lost, state, cure = ended.out.splitlines()
    assert ended.code == 1
    assert damage.startswith("chunk 4 of head 0 of layers/07/")
    assert damage.endswith(f"c.0.1.0 of {memory} (tokens 64 to 79)")
    assert lost == "60.txt: 20 tokens, would be lost"
    assert state.endswith(", 1 damaged")
    assert f"fotmem memory repair {memory}" in cure
    ended = call(capsys, "memory", "repair", memory)
    assert (ended.code, ended.out.splitlines()[:2]) == (
        0,
        [damage, "60.txt: 20 tokens, is lost, read it again"],
    )
    assert call(capsys, "memory", "verify", memory).code == 0
    assert "holds other zarr data" in refusal(capsys, 1, "memory", "verify", memory / "tokens")
