"""The indexes of stores, kept beside a memory."""

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fotmem
from fotmem import progress
from fotmem.directory.compact import compact
from fotmem.memory import kept_indexes
from fotmem.stores import IndexedStore, SavedIndex
from fotmem.stores import indexed_store as indexed
from tests import tiny
from tests.tiny import LAYERS, WINDOW

TOKENS = 300


@pytest.fixture(autouse=True)
def own_secret(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the store's class whenever an index is built."""
    from fotmem_faiss.ivf import IvfStore
    from fotmem_hnsw.store import HnswStore

    monkeypatch.setattr(indexed, "EXACT_BELOW", 64)
    every = list[str]()
    for kind in (IvfStore, HnswStore):

        def counted(self: IndexedStore, build: Any = kind.build_index) -> None:
            every.append(self.store_name)
            build(self)

        monkeypatch.setattr(kind, "build_index", counted)
    return every


@pytest.fixture
def folder(tmp_path: Path, built: list[str]) -> Path:
    """Return a memory without indexes."""
    with fotmem.attach(tiny.llama(), layers=LAYERS, window=WINDOW, top_k=4) as memory:
        memory.read(tiny.ids(TOKENS))
        memory.save(tmp_path / "memory")
        memory.close()
    return tmp_path / "memory"


def opened(folder: Path, store: str = "faiss-ivf", **options: Any) -> Tensor:
    model = tiny.llama()
    memory = fotmem.open_memory(folder, model, store, **options)
    logits: Tensor = model(tiny.ids(9, seed=5)).logits
    memory.close()
    return logits


def index_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "indexes").rglob("*") if path.is_file())


@pytest.mark.parametrize("store", ["faiss-ivf", "hnsw"])
def test_an_index_is_built_once_and_kept(folder: Path, built: list[str], store: str) -> None:
    first = opened(folder, store)
    assert built == [store] * len(LAYERS)
    files = index_files(folder)
    assert [str(path.relative_to(folder)) for path in files] == [
        f"indexes/{store}/{layer:02d}" for layer in LAYERS
    ]
    kept = [path.read_bytes() for path in files]
    torch.testing.assert_close(opened(folder, store), first)
    assert built == [store] * len(LAYERS)  # none was built
    assert [path.read_bytes() for path in index_files(folder)] == kept


def test_a_reader_keeps_an_index_that_the_next_one_takes_over(
    folder: Path, built: list[str]
) -> None:
    opened(folder, seed=1)
    assert len(built) == 2
    opened(folder, nprobe=3)  # the index of another seed does not fit
    assert len(built) == 4
    opened(folder, nprobe=9, threads=2, keys="mmap")  # these do not shape an index
    assert len(built) == 4


def test_other_stores_of_an_open_memory_take_the_index_over(folder: Path, built: list[str]) -> None:
    model = tiny.llama()
    memory = fotmem.open_memory(folder, model, writable=True)
    for _ in range(2):
        memory.use("faiss-ivf", nprobe=99)
        near = model(tiny.ids(9, seed=5)).logits
        memory.use("exact")
        torch.testing.assert_close(model(tiny.ids(9, seed=5)).logits, near)
        assert len(built) == len(LAYERS)
    with memory.temporarily():
        memory.read(tiny.ids(20, seed=6))  # the directory lacks it
        memory.use("faiss-ivf")
        assert len(built) == 2 * len(LAYERS)
    memory.close()


def test_an_index_that_cannot_be_loaded_is_written_anew(
    folder: Path, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:  # as an earlier version of the store wrote it
        patch.setattr(IndexedStore, "save_index", lambda store: SavedIndex(store.made_by, 99, {}))
        opened(folder)
    opened(folder)
    assert len(built) == 2 * len(LAYERS)
    opened(folder)
    assert len(built) == 2 * len(LAYERS)


def damages(data: bytes) -> dict[str, bytes]:
    """Return damaged versions of a file."""
    flipped = {
        f"flip {place}": data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for place in (0, 15, 20, 60, 130, 156, 200, len(data) // 2, len(data) - 1)
    }
    cut = {f"cut {size}": data[:size] for size in (0, 100, 300, len(data) // 2, len(data) - 1)}
    return {**flipped, **cut, "longer": data + b"x", "other": b"dear" * 99}


def test_a_damaged_index_is_reported_and_built_anew(
    folder: Path, built: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = opened(folder, "hnsw")
    file = index_files(folder)[0]
    good = file.read_bytes()
    for name, data in damages(good).items():
        built.clear()
        caplog.clear()
        file.write_bytes(data)
        torch.testing.assert_close(opened(folder, "hnsw"), expected, msg=name)
        assert built == ["hnsw"], name
        assert [record.name for record in caplog.records] == ["fotmem"], name
        assert "indexes/hnsw/" in caplog.text, name
        assert len(file.read_bytes()) == len(good), name
    built.clear()
    opened(folder, "hnsw")
    assert not built


def test_links_pipes_and_folders_in_place_of_an_index_are_not_followed(
    folder: Path, built: list[str], tmp_path: Path
) -> None:
    opened(folder)
    file = index_files(folder)[0]
    target = tmp_path / "target"
    target.write_bytes(good := file.read_bytes())
    away = tmp_path / "away"

    def put_folder() -> None:
        file.mkdir()
        (file / "x").touch()

    def put_link_above() -> None:
        file.parent.rename(away)
        file.parent.symlink_to(away)

    link, pipe = functools.partial(file.symlink_to, target), functools.partial(os.mkfifo, file)
    for put in (link, pipe, put_folder, put_link_above):
        if not file.is_dir():
            file.unlink(missing_ok=True)
        built.clear()
        put()
        opened(folder)
        assert built
        assert target.read_bytes() == good
        if file.is_dir():
            shutil.rmtree(file)
    assert list(away.iterdir())


def test_an_index_that_another_user_wrote_is_loaded_only_if_trusted(
    folder: Path,
    built: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    expected = opened(folder)
    assert len(built) == 2
    kept = {path: path.read_bytes() for path in index_files(folder)}

    def require_anew(why: str) -> None:
        """The index is loaded if the folder is trusted; otherwise it is not parsed, but built."""
        built.clear()
        caplog.clear()
        torch.testing.assert_close(opened(folder, trusted=True), expected)
        assert not built, why
        assert {path: path.read_bytes() for path in kept} == kept, why
        with monkeypatch.context() as patch:
            patch.setattr("faiss.deserialize_index", None)
            torch.testing.assert_close(opened(folder), expected)
        assert len(built) == 2, why
        assert "if you trust the folder, open it with trusted=True" in caplog.text, why
        for path, data in kept.items():
            path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        require_anew("the files are another user's")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "another home"))
        require_anew("another user packed them")
    (tmp_path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        require_anew("there is no place for a secret")
    built.clear()
    opened(folder)
    assert not built
    secret = tmp_path / "another home" / "fotmem" / "keys" / "indexes"
    assert (secret.stat().st_mode & 0o777, len(secret.read_bytes())) == (0o600, 32)


def test_an_index_of_other_tokens_is_built_anew(
    folder: Path, built: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    for place, seed in ((folder, 1), (tmp_path / "copy", 2)):
        with fotmem.open_memory(place, tiny.llama(), "faiss-ivf", writable=True) as memory:
            memory.read(tiny.ids(50, seed=seed))
            memory.close()
        opened(place)
    shutil.rmtree(folder / "indexes")
    shutil.copytree(tmp_path / "copy" / "indexes", folder / "indexes")
    built.clear()
    opened(folder)
    assert len(built) == 2
    assert "it was made of other tokens" in caplog.text


def test_what_is_read_later_is_added_to_the_index(folder: Path, built: list[str]) -> None:
    opened(folder, "hnsw")
    built.clear()
    kept = [path.read_bytes() for path in index_files(folder)]
    for count, rewritten in ((20, False), (200, True)):
        with fotmem.open_memory(folder, tiny.llama(), "hnsw", writable=True) as memory:
            memory.read(tiny.ids(count, seed=count))
            for store in memory.stores.values():
                assert isinstance(store, IndexedStore)
                assert store.indexed_rows == len(memory)
            memory.close()
        assert ([path.read_bytes() for path in index_files(folder)] != kept) == rewritten
    opened(folder, "hnsw")
    assert not built


def test_save_keeps_the_index_that_there_is(tmp_path: Path, built: list[str]) -> None:
    with fotmem.attach(tiny.llama(), "hnsw", LAYERS, window=WINDOW, top_k=4) as memory:
        memory.read(tiny.ids(TOKENS))
        memory.save(tmp_path / "memory")
        assert len(index_files(tmp_path / "memory")) == len(LAYERS)  # before it is closed
        memory.close()
    built.clear()
    opened(tmp_path / "memory", "hnsw")
    assert not built


def test_the_next_writer_removes_what_is_stale(folder: Path, tmp_path: Path) -> None:
    opened(folder)
    kept = index_files(folder)
    store = folder / "indexes" / "hnsw"
    store.mkdir()
    partial = f"07.{'a' * 32}.partial"
    for name in ("07", "12", partial, "letter.txt"):
        (store / name).write_bytes(b"dear")
    opened(folder)
    assert len(index_files(folder)) == len(kept) + 4
    fotmem.open_memory(folder, tiny.llama(), writable=True).close()
    assert index_files(folder) == [*kept, store / "letter.txt"]


def test_a_reader_of_other_ids_keeps_no_index(folder: Path) -> None:
    """It was opened before the memory was compacted, and would replace the index of the new ids."""
    with fotmem.open_memory(folder, tiny.llama(), writable=True) as memory:
        memory.read(tiny.ids(90, seed=1), document="b")
        memory.remove("b")
        memory.close()
    reader = fotmem.open_memory(folder, tiny.llama())
    assert compact(folder).dropped_tokens == 90
    opened(folder)
    kept = {file: file.read_bytes() for file in index_files(folder)}
    assert len(kept) == len(LAYERS)
    reader.use("faiss-ivf")
    reader.close()
    assert {file: file.read_bytes() for file in index_files(folder)} == kept


def test_an_index_that_cannot_be_written_is_not_kept(
    folder: Path, built: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "indexes").write_text("no folder")
    opened(folder)
    opened(folder, writable=True)
    assert len(built) == 4
    assert "is not kept" in caplog.text
    assert (folder / "indexes").read_text() == "no folder"


def test_a_bar_shows_the_opening_of_many_tokens(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder, progress=True)
    monkeypatch.setattr(kept_indexes, "MANY", TOKENS)
    monkeypatch.setattr(progress, "EVERY", 0)
    opened(folder)
    assert capsys.readouterr().err == ""
    opened(folder, "hnsw", progress=True)
    assert f"opening: {2 * TOKENS} of {2 * TOKENS} tokens, done" in capsys.readouterr().err
