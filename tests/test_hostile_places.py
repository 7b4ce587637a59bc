"""Memories of strangers: links, pipes, zip files, read-only disks, claims of petabytes."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fotmem.directory.compact import compact
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from tests.memory_rows import ROWS, assert_holds, document, draw, names
from tests.tiny import LAYERS, WINDOW, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "hard link", "device"])
def test_a_lock_file_that_is_something_else_is_left_alone(
    memory: Path, tmp_path: Path, what: str
) -> None:
    lock, victim = memory / ".lock", tmp_path / "victim"
    victim.write_text("dear")
    lock.unlink()
    if what == "pipe":
        os.mkfifo(lock)
    elif what == "folder":
        lock.mkdir()
    elif what == "hard link":
        os.link(victim, lock)
    else:
        lock.symlink_to(victim if what == "link" else "/dev/zero")
    with pytest.raises(StorageError, match=r"/\.lock is not a regular file .* remove it"):
        MemoryDirectory.open(memory, writable=True)
    assert victim.read_text() == "dear"
    assert_holds(MemoryDirectory.open(memory), ROWS)
    shutil.rmtree(lock) if what == "folder" else lock.unlink()
    MemoryDirectory.open(memory, writable=True).close()


def test_links_in_place_of_any_file_or_folder_are_not_followed(
    memory: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    for each in sorted(memory.rglob("*")):
        if each.name == ".lock":
            continue
        each.rename(outside)
        each.symlink_to(outside)
        before = {name: (outside / name).read_bytes() for name in names(outside)}
        with pytest.raises(StorageError, match=str(memory)):
            assert_holds(MemoryDirectory.open(memory), ROWS)
        assert verify(memory).damages, each
        assert {name: (outside / name).read_bytes() for name in names(outside)} == before
        each.unlink()
        outside.rename(each)
    assert_holds(MemoryDirectory.open(memory), ROWS)


def test_what_hard_links_lead_to_is_not_changed(memory: Path, tmp_path: Path) -> None:
    """A file is replaced, never written into."""
    shutil.copytree(memory, tmp_path / "victim", copy_function=os.link)
    (memory / ".lock").unlink()
    before = {name: (tmp_path / "victim" / name).read_bytes() for name in names(memory)}
    writer = MemoryDirectory.open(memory, writable=True)
    writer.append(*draw(ROWS, ROWS + 90))
    removed = writer.manifest.documents[0].model_copy(update={"is_removed": True})
    last = document(ROWS, ROWS + 90, "new")
    writer.commit([removed, *writer.manifest.documents[1:], last])
    writer.close()
    chunks = next(memory.glob("layers/03/*/keys/c.0.0.0"))
    content = chunks.read_bytes()
    chunks.unlink()
    chunks.write_bytes(content[:-1])
    repair(memory)
    compact(memory)
    assert {name: (tmp_path / "victim" / name).read_bytes() for name in before} == before


def test_files_that_grow_while_they_are_read_change_nothing(memory: Path) -> None:
    reader = MemoryDirectory.open(memory)
    for name in names(memory):
        with (memory / name).open("ab") as file:
            file.write(b"more")
    assert_holds(reader, ROWS)


def test_files_that_shrink_while_they_are_read_are_named(memory: Path) -> None:
    """Whole blocks are read when they are needed; pieces were read at the opening."""
    reader = MemoryDirectory.open(memory)
    for file in memory.glob("layers/*/*/*/c.0.1.0"):
        os.truncate(file, 5)
    with pytest.raises(StorageError, match=r"is truncated .*/c\.0\.1\.0"):
        assert_holds(reader, ROWS)


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("number", [5, pytest.param(150, marks=pytest.mark.thorough)])
def test_damaged_zip_files_are_refused_or_right(memory: Path, tmp_path: Path, number: int) -> None:
    for method in METHODS:
        packed = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(packed, "w", method) as file:
            for name in sorted(names(memory) - {".lock"}):
                file.write(memory / name, name)
        assert_holds(MemoryDirectory.open(packed), ROWS)
        assert verify(packed).damages == ()
        for seed in range(number):
            random, data = Random(seed), bytearray(packed.read_bytes())
            at = random.choice((random.randrange(len(data)), -random.randrange(1, 5000)))
            if seed % 3:
                data[at] ^= 1 << random.randrange(8)
            else:
                del data[at:]
            damaged = tmp_path / "damaged.zip"
            damaged.write_bytes(data)
            for use in (verify, lambda path: assert_holds(MemoryDirectory.open(path), ROWS)):
                try:
                    use(damaged)
                except StorageError as error:
                    message = str(error)
                    assert str(damaged) in message


# In processes of their own


def run(code: str, *arguments: object, before: tuple[str, ...] = ()) -> Any:
    """Run Python code that uses a memory."""
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


WRITE = """
import sys
from pathlib import Path
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.repair import repair
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from tests.memory_rows import ROWS, assert_holds, draw
path = Path(sys.argv[1])
assert_holds(MemoryDirectory.open(path), ROWS)
assert not verify(path).damages
writer = MemoryDirectory.open(path, writable=True)
assert_holds(writer, ROWS)
for change in (lambda: writer.commit(writer.manifest.documents), lambda: repair(path)):
    try:
        change()
    except StorageError as error:
        print(error)
"""


@pytest.mark.thorough
def test_a_read_only_disk_is_read_and_writing_is_refused_by_name(memory: Path) -> None:
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    before = ("unshare", "-m", "sh", "-c", mount, "sh", str(memory))
    if shutil.which("unshare") is None or run("", before=before).returncode:
        pytest.skip("this user may not mount a disk")
    ended = run(WRITE, memory, before=before)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(f"{memory} cannot be written to (Read-only file system)") == 2


CLAIMS = """
import json, resource, sys
from pathlib import Path
from fotmem.directory.memory_directory import MemoryDirectory
from fotmem.directory.verify import verify
from fotmem.errors import StorageError
from tests.memory_rows import ROWS, assert_holds
from tests.zarr_store.manifest_edits import edited, setting
path = Path(sys.argv[1])
right = (path / "zarr.json").read_bytes()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
PETA, LARGEST = 2**50, {"num_heads": 2**16, "head_dim": 2**16}
edits = [
    ("rows", PETA), ("block", 2**11), ("layers.0.num_heads", 2**16),
    ("layers.0.head_dim", 2**16), ("layers.1.pieces.0.rows", PETA), ("documents.0.stop", PETA),
    ("tokens.parts.0.first", PETA),
    ("layers", [{**json.loads(right)["attributes"]["fotmem"]["layers"][0], **LARGEST}]),
]
for edit in [None, *edits]:
    if edit is None:
        (path / "zarr.json").write_text("[" + "[]," * 2**22 + "[]]")
    else:
        (path / "zarr.json").write_bytes(right)
        edited(path, setting(*edit), id_folder="tokens", noun="memory")
    for use in (lambda: assert_holds(MemoryDirectory.open(path), ROWS), lambda: verify(path)):
        try:
            assert use() is not None and use().damages, edit
        except StorageError:
            pass
(path / "zarr.json").write_bytes(right)
assert_holds(MemoryDirectory.open(path), ROWS)
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_claims_of_petabytes_are_refused_in_half_a_gigabyte(memory: Path) -> None:
    ended = run(CLAIMS, memory)
    assert ended.returncode == 0, ended.stderr
