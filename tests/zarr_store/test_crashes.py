"""A writer that is killed or fails, and what it leaves."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fotmem.errors import StorageError
from tests.zarr_store.stores import KINDS, ROOT, assert_holds, contents, data, fill, look_at, opened

KILLED = """
import os, signal, sys, torch
from fotmem import create_store
from fotmem.testing.store.naive import draw
directory, calls = sys.argv[1], int(sys.argv[2])
keys, values = draw(2, 3000, 16), draw(2, 3000, 16, seed=1)
create_store("zarr", num_heads=2, head_dim=16).close()  # imports
written = 0
def count(event, args):
    global written
    if event in ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree") or (
        event == "open" and args[2] & os.O_CREAT
    ):
        written += 1
        if written == calls:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
store = create_store("zarr", num_heads=2, head_dim=16, ram=2**20, directory=directory)
for start in range(0, 3000, 250):
    store.add(keys[:, start:start + 250], values[:, start:start + 250])
    if start % 500:
        store.flush()
        print(start + 250, flush=True)
"""


@pytest.mark.parametrize(
    "calls",
    [
        *(12, 160, 900),
        *(
            pytest.param(calls, marks=pytest.mark.thorough)
            for calls in (1, 5, 60, 113, 240, 500, 1300, 1650)
        ),
    ],
)
def test_killed_at_any_moment_it_reopens_at_its_last_flush(tmp_path: Path, calls: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "s"), str(calls)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == -signal.SIGKILL, process.stderr
    flushed = int((process.stdout.split() or ["0"])[-1])
    keys, values = data()
    with opened(directory=tmp_path / "s") as store:
        held = len(store)
        assert held in (flushed, flushed + 500 if flushed else 500)
        store.add(keys[:, held:], values[:, held:])
        assert_holds(store, keys, values)
    with opened(directory=tmp_path / "s") as store:
        assert_holds(store, keys, values)
    assert not list((tmp_path / "s").rglob("*.partial"))


@pytest.mark.parametrize("room", range(4))
def test_a_failed_opening_leaves_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    plain, calls = os.replace, itertools.count()

    def replace(*args: Any, **options: Any) -> None:
        if next(calls) >= room:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(*args, **options)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="No space left"):
        opened(directory=tmp_path / "a" / "b" / "store")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), MemoryError("no more")])
def test_an_interrupted_rename_leaves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    plain, calls = os.replace, itertools.count()

    def replace(*args: Any, **options: Any) -> None:
        if next(calls) % 3 == 2:
            raise error
        plain(*args, **options)

    with opened(directory=store) as found:
        monkeypatch.setattr(os, "replace", replace)
        for _ in range(12):
            try:
                found.add(*data(300))
                found.flush()
            except (StorageError, MemoryError):
                assert not list(store.rglob("*.partial"))
        monkeypatch.undo()
    opened(directory=store).close()


def test_the_next_flush_removes_what_a_killed_writer_left(store: Path) -> None:
    (part, *_) = sorted(path for path in (store / "log").iterdir() if path.is_dir())
    (segment, *_) = sorted(path for path in (store / "segments").iterdir() if path.is_dir())
    name = f"c.0.0.0.{'a' * 32}.partial"
    strays = [store / name, store / "log" / name, part / name, part / "keys" / name]
    strays += [segment / "ids" / name, part / "keys" / "c.0.99.0"]
    for stray in strays:
        stray.write_bytes(b"1")
    shutil.copytree(part, store / "log" / "00000990")
    before = contents(store)
    found = opened(directory=store)
    assert before.items() <= contents(store).items()  # opening removes nothing
    found.close()
    assert not [stray for stray in strays if stray.exists()]
    assert not (store / "log" / "00000990").exists()
    with opened(directory=store) as again:
        look_at(again)


def test_an_earlier_manifest_opens_as_it_was_and_destroys_nothing(tmp_path: Path) -> None:
    where, keys, values = tmp_path / "store", *data()
    with opened(directory=where) as store:
        store.add(keys[:, :1600], values[:, :1600])
        store.flush()
        earlier = (where / "zarr.json").read_bytes()
        store.add(keys[:, 1600:], values[:, 1600:])
    newest = (where / "zarr.json").read_bytes()
    (where / "zarr.json").write_bytes(earlier)
    try:
        store = opened(directory=where)
        assert_holds(store, keys[:, :1600], values[:, :1600])
    except StorageError:
        pass
    else:
        del store
    (where / "zarr.json").write_bytes(newest)
    with opened(directory=where) as store:
        assert_holds(store, keys, values)


@pytest.mark.thorough
def test_a_store_whose_writer_was_killed_at_its_beginning_opens(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 0)
    for kept in ((), ("log",), ("log", "segments"), KINDS):
        begun = tmp_path / f"begun-{len(kept)}"
        begun.mkdir()
        (begun / f"zarr.json.{'0' * 32}.partial").write_bytes(b"{")
        for kind in kept:
            shutil.copytree(tmp_path / "whole" / kind, begun / kind)
        fill(begun)
        with opened(directory=begun) as store:
            assert_holds(store, *data())
        assert not list(begun.rglob("*.partial"))
