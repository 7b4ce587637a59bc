"""Directories of memories that a stranger made: refused, and nothing outside is touched."""

import copy
import functools
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from tests.memory_rows import ROWS, assert_holds, names, written
from tests.zarr_store import manifest_edits
from tests.zarr_store.manifest_edits import setting

MOST = 2**28
"""Bytes that may be allocated before a directory is refused: a manifest may have 64 MiB."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("original") / "memory", 100)


VALUES: dict[str, tuple[Any, ...]] = {
    "block": (10**6, 0, 1, 128, 24, -64, 2**70, "64", 64.0, True, None),
    "rows": (0, 1, ROWS - 1, ROWS + 1, 10**12, 2**63, -1),
    "next_name": (0, 1, -1, 2**70),
    "tokens": ([], None, {}, 5),
    "layers": ([], None, {}),
    "tokens.parts": ([], None),
    "tokens.pieces": ([], None),
    "tokens.parts.0.first": (16, 1, 10**12),
    "tokens.parts.0.name": (
        "../../victim",
        "/etc",
        "",
        ".",
        "..",
        "a/b",
        "00000001\n",
        "\u0661" * 8,
    ),
    "tokens.parts.0.generation": ("", "0" * 16, "g" * 16, None),
    "layers.0.layer": (-1, 7, 9, 10**6, "../..", "3"),
    "layers.0.num_heads": (0, 1, 3, 2**16, 10**9, -2),
    "layers.0.head_dim": (0, 3, 2**16, 10**9),
    "layers.0.dtype": ("float64", "float16", "", "../../victim", 7),
    "layers.0.parts.0.name": ("../victim", "99999999999999999999999999"),
    "layers.0.parts.0.generation": ("0" * 16,),
    "layers.1.pieces.0.rows": (0, 1, 10**12),
    "layers.1.pieces.0.first": (0, 10**12),
    "documents": (None, 5),
    "documents.0.first": (1, -1, 10**12),
    "documents.0.stop": (0, 99, 101, 10**12),
    "documents.0.name": ("100.txt", None, "x" * 5000),
    "documents.0.sha256": ("", "z" * 64),
    "documents.0.characters": (-1, 1.5),
    "documents.0.read_at": ("", "yesterday", "2026-01-02T03:04:05Z\n"),
    "documents.0.is_removed": (0, None),
    "documents.0.is_replacement": (True, 0, None),
    "facts": (None, {}),
    "facts.window": (0, 2**70),
    "facts.top_k": (0, -1),
    "facts.decay": (-1.0, "0"),
    "facts.temperature": (0.0, None),
    "facts.model": ("x" * 5000, None),
    "facts.fingerprint": ({}, None),
    "unknown": (1,),
}
EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    f"{path}={value!r}"[:60]: setting(path, value)
    for path, values in VALUES.items()
    for value in values
}
EDITS |= {
    "layers reversed": lambda facts: facts["layers"].reverse(),
    "a layer twice": lambda facts: facts["layers"].append(copy.deepcopy(facts["layers"][0])),
    "a part twice": lambda facts: facts["tokens"]["parts"].append(facts["tokens"]["parts"][0]),
    "documents reversed": lambda facts: facts["documents"].reverse(),
    "a document left out": lambda facts: facts["documents"].pop(0),
    "rows left out": lambda facts: facts.pop("rows"),
    "groups exchanged": lambda facts: facts["layers"][0].update(
        parts=facts["layers"][1]["parts"], pieces=facts["layers"][1]["pieces"]
    ),
}


edited = functools.partial(manifest_edits.edited, id_folder="tokens", noun="memory")


def used(path: Path) -> None:
    """Open a directory, and read all that it holds; little is allocated before it is refused."""
    tracemalloc.start()
    try:
        assert_holds(MemoryDirectory.open(path), ROWS)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_that_states_what_cannot_be_true_is_refused(
    memory: Path, tmp_path: Path, edit: str
) -> None:
    victim = Path(shutil.copytree(memory / "tokens", tmp_path / "victim"))
    edited(memory, EDITS[edit])
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(StorageError, match=str(memory)):
        used(memory)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert victim.is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
@pytest.mark.parametrize("what", ["pipe", "link", "folder", "device"])
@pytest.mark.parametrize("name", ["zarr.json", "tokens/zarr.json", "keys"])
def test_what_is_no_regular_file_is_refused(
    memory: Path, tmp_path: Path, name: str, what: str
) -> None:
    file = next(memory.glob("layers/03/*/keys/c.0.0.0")) if name == "keys" else memory / name
    shutil.move(file, tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "outside" if what == "link" else "/dev/zero")
    with pytest.raises(StorageError, match=str(memory)):
        used(memory)
    assert (tmp_path / "outside").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["zarr.json", "tokens/zarr.json", "layers/zarr.json", "array", "keys"]
)
def test_a_file_of_terabytes_is_not_read(memory: Path, name: str) -> None:
    found = {"array": "layers/03/*/keys/zarr.json", "keys": "layers/03/*/keys/c.0.0.0"}
    file = next(memory.glob(found.get(name, name)))
    with file.open("r+b") as opened:
        opened.truncate(2**43)  # sparse
    if name == "keys":  # only other programs read its end
        used(memory)
        assert len(verify(memory).damages) == 1
        repair(memory)
        used(memory)
        return
    with pytest.raises(StorageError, match=str(memory)):
        used(memory)


def test_members_of_a_zip_file_lead_nowhere(memory: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", memory))
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("../escaped", b"x")
        file.writestr("tokens/../../escaped", b"x")
    used(packed)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()
    with pytest.raises(StorageError, match="is a zip file, which is read-only"):
        repair(packed) if verify(packed).damages else MemoryDirectory.open(
            packed, writable=True
        ).commit([])
