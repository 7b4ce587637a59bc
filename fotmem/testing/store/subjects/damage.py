"""Directories that are damaged, torn, hostile, or open twice."""

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
from fotmem.testing.store.expectations import fail, told
from fotmem.testing.store.hits import expect_contents
from fotmem.testing.store.other_process import NOT_MADE, OPENED, REFUSED, open_elsewhere
from fotmem.testing.store.pickles import PLANTS, unpickling
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

FILES = 12
"""Of a directory with more, so many are damaged."""
State = tuple[Tensor, Tensor, int]
"""Keys and values ``[H, N, D]``, and the id of the first."""


class Damage:
    """Damaged directories."""

    def test_damaged_files(self, lasting: Stores, tmp_path: Path) -> None:
        """A file that is removed, emptied, cut or altered: a StorageError, or the right answer."""
        keys, values = pair(60)
        original = tmp_path / "original"
        lasting.close(lasting.filled(keys, values, cuts=(20, 40), directory=original))
        for file in _some_files(original):
            for name, damage in DAMAGES.items():
                where = _copied(original, tmp_path / "copy")
                damage(where / file)
                _expect_one_of(lasting, where, [(keys, values, 0)], f"{file} was {name}")

    def test_torn_directories(self, lasting: Stores, tmp_path: Path) -> None:
        """Files of two moments in one directory: a StorageError, or all of either moment."""
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
                _expect_one_of(lasting, where, states, f"{file} was put there, a {what} one,")

    def test_nothing_is_unpickled(self, lasting: Stores, tmp_path: Path) -> None:
        """Opening a directory and reading it unpickles nothing, whatever lies there."""
        keys, values = pair(60)
        original = tmp_path / "original"
        for _ in range(2):  # the second opens what is there, and nothing is imported any more
            lasting.close(lasting.filled(keys, values, directory=original))
        with unpickling() as places:
            store = lasting.empty(directory=original)
            store.values(store.search(keys[:, :2], 3).ids)
            store.attend(keys[:, :2], top_k=None, scale=0.3)
        lasting.close(store)
        self._expect_none(places, "it")
        for file in _some_files(original):
            for name, plant in PLANTS.items():
                where = _copied(original, tmp_path / "copy")
                plant(where / file)
                with unpickling() as places:
                    _open_and_read(lasting, where)
                self._expect_none(places, f"{file}, in the place of which {name} was put,")

    @staticmethod
    def _expect_none(places: list[str], what: str) -> None:
        __tracebackhide__ = True
        if places:
            fail(
                f"opening a directory unpickles {what} ({places[0]}): who can write there could "
                "run any code; keep arrays and JSON, such as safetensors or zarr"
            )

    def test_a_second_store_in_the_same_directory(self, lasting: Stores, tmp_path: Path) -> None:
        """A directory that a store of this process has open is refused; the first one goes on."""
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
        """A directory that a store of another process has open is refused."""
        keys, values = pair(60)
        where = tmp_path / "store"
        store = lasting.filled(keys, values, directory=where)
        store.flush()
        layer = {"num_heads": HEADS, "head_dim": DIM, "dtype": torch.float32}
        arguments = {**layer, "device": torch.device(lasting.device), "directory": where}
        ended = open_elsewhere(lasting.make, arguments, tmp_path / "make.pickle")
        if ended == NOT_MADE:
            pytest.skip("make_store returns what another process cannot call, such as a lambda")
        if ended == OPENED:
            fail("a directory that a store has open could be opened by another process: lock it")
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
    """List the files of a directory, or some, all over it."""
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return files[:: -(-len(files) // FILES)]


def _copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _expect_one_of(stores: Stores, where: Path, states: Sequence[State], after: str) -> None:
    """Open a damaged directory: it is refused, or holds all of one of these states."""
    __tracebackhide__ = True
    with told(f"when {after} the store must raise StorageError, or hold all that it held"):
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
    """Do it whatever comes."""
    with suppress(Exception):
        store = stores.empty(directory=where)
        store.search(torch.ones(HEADS, 1, DIM), 3)
        stores.close(store)
