"""Tests of directories that are damaged, mixed, hostile or open twice."""

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fotmem.errors import FotmemError
from fotmem.testing.store.expectations import fail, fault
from fotmem.testing.store.hits import expect_contents
from fotmem.testing.store.other_process import NOT_MADE, OPENED, REFUSED, open_elsewhere
from fotmem.testing.store.pickles import PLANTS, unpickling
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

FILES = 12
"""Number of files that are damaged, at most."""
State = tuple[Tensor, Tensor, int]
"""Keys and values ``[H, N, D]``, and the id of the first."""


class Damage:
    """Damaged directories."""

    def test_damaged_files(self, lasting: Stores, tmp_path: Path) -> None:
        """After damage to any file, a store raises StorageError or answers correctly."""
        keys, values = pair(60)
        original = tmp_path / "original"
        lasting.close(lasting.filled(keys, values, cuts=(20, 40), directory=original))
        for file in _some_files(original):
            for name, damage in DAMAGES.items():
                where = _copied(original, tmp_path / "copy")
                damage(where / file)
                _expect_one_of(lasting, where, [(keys, values, 0)], f"{file} was {name}")

    def test_torn_directories(self, lasting: Stores, tmp_path: Path) -> None:
        """With files of two moments mixed, a store raises StorageError or holds either moment."""
        keys, values = pair(60)
        store = lasting.filled(keys[:, :30], values[:, :30], directory=tmp_path / "store")
        store.flush()
        before = _copied(tmp_path / "store", tmp_path / "before")
        store.add(keys[:, 30:], values[:, 30:])
        store.forget(5)
        store.flush()
        after = _copied(tmp_path / "store", tmp_path / "after")
        lasting.close(store)
        states = [(keys[:, :30], values[:, :30], 0), (keys[:, 5:], values[:, 5:], 5)]
        for one, other, what in ((before, after, "newer"), (after, before, "older")):
            for file in _some_files(other):
                same = (one / file).is_file() and (one / file).read_bytes()
                if same == (other / file).read_bytes():
                    continue
                where = _copied(one, tmp_path / "copy")
                (where / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(other / file, where / file)
                _expect_one_of(lasting, where, states, f"{file} was replaced by a {what} one")

    def test_nothing_is_unpickled(self, lasting: Stores, tmp_path: Path) -> None:
        """Opening and reading a directory unpickles nothing."""
        keys, values = pair(60)
        original = tmp_path / "original"
        for _ in range(2):  # the second opens what is there, and nothing is imported any more
            lasting.close(lasting.filled(keys, values, directory=original))
        with unpickling() as places:
            store = lasting.empty(directory=original)
            store.values(store.search(keys[:, :2], 3).ids)
            store.attend(keys[:, :2], top_k=None, scale=0.3)
        lasting.close(store)
        self._expect_none(places, "its files")
        for file in _some_files(original):
            for name, plant in PLANTS.items():
                where = _copied(original, tmp_path / "copy")
                plant(where / file)
                with unpickling() as places:
                    _open_and_read(lasting, where)
                self._expect_none(places, f"{name} in place of {file}")

    @staticmethod
    def _expect_none(places: list[str], what: str) -> None:
        __tracebackhide__ = True
        if places:
            fail(
                f"opening a directory unpickles {what} ({places[0]}): everybody who can write "
                "there can run any code; store arrays and JSON, for example safetensors or zarr"
            )

    def test_a_second_store_in_the_same_directory(self, lasting: Stores, tmp_path: Path) -> None:
        """A directory cannot be opened twice in one process; the first store works on."""
        keys, values = pair(60)
        where = tmp_path / "store"
        store = lasting.filled(keys[:, :40], values[:, :40], directory=where)
        store.flush()
        again = functools.partial(lasting.empty, directory=where)
        expect_refusal(FotmemError, again, "a directory that another store has open")
        store.add(keys[:, 40:], values[:, 40:])
        expect_refusal(FotmemError, again, "a directory that another store has open")
        lasting.close(store)
        expect_contents(again(), keys, values)

    def test_a_second_process_in_the_same_directory(self, lasting: Stores, tmp_path: Path) -> None:
        """A directory cannot be opened by two processes at once."""
        keys, values = pair(60)
        where = tmp_path / "store"
        store = lasting.filled(keys, values, directory=where)
        store.flush()
        layer = {"num_heads": HEADS, "head_dim": DIM, "dtype": torch.float32}
        arguments = {**layer, "device": torch.device(lasting.device), "directory": where}
        ended = open_elsewhere(lasting.make, arguments, tmp_path / "make.pickle")
        if ended == NOT_MADE:
            pytest.skip("another process cannot call what make_store returns, such as a lambda")
        if ended == OPENED:
            fail("another process could open a directory that a store has open: lock it")
        if ended != REFUSED:
            fail(f"a directory that a store has open must be refused by StorageError, got {ended}")
        expect_contents(store, keys, values)


def _flipped(place: float) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        if content:
            content[int(place * (len(content) - 1))] ^= 0x10
        file.write_bytes(content)

    return flip


def _cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "emptied": lambda file: os.truncate(file, 0),
    "cut in half": _cut,
    "altered in its first byte": _flipped(0),
    "altered in its middle": _flipped(0.5),
    "altered near its end": _flipped(0.9),
}


def _some_files(folder: Path) -> list[Path]:
    """List the files of a directory, or some of them if there are many."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return files[:: -(-len(files) // FILES)]


def _copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _expect_one_of(stores: Stores, where: Path, states: Sequence[State], after: str) -> None:
    """Open a damaged directory: it is refused, or holds exactly one of these states."""
    __tracebackhide__ = True
    with fault(f"after {after}, the store must raise StorageError, or still hold all keys"):
        try:
            store = stores.empty(directory=where)
        except FotmemError:
            return
        try:
            known = [state for state in states if state[2] + state[0].shape[1] == store.next_id]
            keys, values, first_id = (known or states)[0]
            expect_contents(store, keys, values, first_id=first_id)
        except FotmemError:
            return
        finally:
            with suppress(FotmemError):
                stores.close(store)


def _open_and_read(stores: Stores, where: Path) -> None:
    """Open a directory and search it, ignoring all errors."""
    with suppress(Exception):
        store = stores.empty(directory=where)
        store.search(torch.ones(HEADS, 1, DIM), 3)
        stores.close(store)
