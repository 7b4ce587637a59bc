"""Second writers, copies and forked processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fotmem.errors import StorageError
from tests.zarr_store.stores import ROOT, assert_holds, data, opened


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = opened(directory=tmp_path)
    with pytest.raises(StorageError, match="in use by process"):
        opened(directory=tmp_path)
    first.close()
    second = opened(directory=tmp_path)
    del second
    opened(directory=tmp_path).close()


def test_a_second_writer_is_refused_though_the_lock_file_is_deleted(store: Path) -> None:
    with opened(directory=store) as first:
        (store / ".lock").unlink()
        with pytest.raises(StorageError, match="in use by another writer"):
            opened(directory=store)
        first.add(*data(10))
    opened(directory=store).close()


def test_a_copy_keeps_the_files_that_its_original_replaced(tmp_path: Path) -> None:
    keys, values = data(6000)
    store = opened(directory=tmp_path)
    for begin in range(0, 2000, 500):
        store.add(keys[:, begin : begin + 500], values[:, begin : begin + 500])
    store.flush()
    twin = store.copy()
    for begin in range(2000, 6000, 500):
        store.add(keys[:, begin : begin + 500], values[:, begin : begin + 500])
    store.forget(1500)
    store.flush()
    assert_holds(twin, keys[:, :2000], values[:, :2000])
    assert_holds(store, keys, values, forgotten=1500)
    before = len(list((tmp_path / "segments").iterdir()))
    del twin
    assert len(list((tmp_path / "segments").iterdir())) < before


IN_A_FORK = """
import gc, os, sys
from pathlib import Path
import torch
from fotmem.errors import StorageError
from tests.zarr_store.stores import assert_holds, data, opened

torch.set_num_threads(1)

def fork(directory, ending):
    keys, values = data()
    store = opened(directory=directory, ram=2**18)
    for k, v in zip(keys.split(300, 1), values.split(300, 1), strict=True):
        store.add(k, v)
    if (child := os.fork()) == 0:
        assert_holds(store, keys, values)
        for change in (lambda: store.add(keys, values), lambda: store.forget(10)):
            try:
                change()
            except StorageError as error:
                assert "belongs to the process that opened it" in str(error), error
            else:
                os._exit(3)
        twin = store.copy()
        twin.add(keys[:, :9], values[:, :9])
        assert len(twin) == keys.shape[1] + 9
        if ending == "close":
            store.close()
        elif ending == "forget":
            del change, store, twin
            gc.collect()
        sys.exit(0)  # as an ordinary program ends, with all that is done then
    assert os.waitpid(child, 0)[1] == 0, ending
    store.add(keys[:, :1], values[:, :1])
    keys, values = (torch.cat([each, each[:, :1]], 1) for each in (keys, values))
    assert_holds(store, keys, values)
    store.close()
    if directory:
        with opened(directory=directory) as store:
            assert_holds(store, keys, values)

for ending in ("exit", "close", "forget"):
    fork(Path(sys.argv[1]) / ending, ending)
    fork(None, ending)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.thorough
def test_forked_processes_leave_the_files_to_their_parent(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_A_FORK, tmp_path],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("fotmem-zarr-*"))
