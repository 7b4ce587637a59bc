"""Folders that cannot be written or read."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fotmem.errors import StorageError
from tests.zarr_store.stores import ROOT, contents, opened


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    for name in ("file/store", "a\0b", 300 * "x"):
        with pytest.raises(StorageError, match="choose a folder"):
            opened(directory=tmp_path / name)
    with pytest.raises(StorageError, match="is not a zip file"):
        opened(directory=tmp_path / f"{300 * 'x'}.zip")


AS_NOBODY = """
import os, sys
from tests.zarr_store.stores import assert_holds, data, opened
from fotmem.errors import StorageError
directory, message = sys.argv[1:]
opened().close()  # imports
os.setuid(65534)
try:
    store = opened(directory=directory)
except StorageError as error:
    assert message != "read" and message in str(error), error
else:
    assert message == "read"
    other = opened(directory=directory)  # any number may read
    assert_holds(store, *data(), forgotten=300)
    assert_holds(other, *data(), forgotten=300)
    try:
        store.add(*data(1))
    except StorageError as error:
        assert "cannot be written to (Permission denied)" in str(error), error
    else:
        raise AssertionError("added to what cannot be written to")
    assert_holds(store, *data(), forgotten=300)
    store.flush()
    store.close()
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="root alone may setuid")
@pytest.mark.parametrize(
    "case",
    [
        "read-only",
        *(
            pytest.param(case, marks=pytest.mark.thorough)
            for case in ("no lock file", "unreadable log", "unreadable")
        ),
    ],
)
def test_a_folder_of_somebody_else(store: Path, case: str) -> None:
    shutil.copytree(ROOT, store.parent / "code", ignore=only_code)
    for path in (store, *store.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in store.parents:
        if path.stat().st_uid == 0 and path != Path(path.anchor):
            path.chmod(path.stat().st_mode | 0o055)
    if case == "no lock file":
        (store / ".lock").unlink()
    if case == "unreadable log":
        (store / "log").chmod(0)
    if case == "unreadable":
        store.chmod(0)
    message = "read" if case in ("read-only", "no lock file") else "Permission denied"
    before = contents(store)
    ended = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(store), message],
        cwd=store.parent / "code",
        env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert contents(store) == before


def only_code(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith((".", "__")) and name != "__init__.py"]
