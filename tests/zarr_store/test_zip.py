"""Zip files of a store."""

import shutil
import zipfile
from pathlib import Path

import pytest

from fotmem.errors import StorageError
from tests.zarr_store.manifest_edits import edited, setting
from tests.zarr_store.stores import ROWS, assert_holds, contents, data, fill, opened


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_can_be_searched_but_not_added_to(tmp_path: Path, compression: int) -> None:
    fill(tmp_path / "store")
    packed = tmp_path / "store.zip"
    with zipfile.ZipFile(packed, "w", compression) as file:
        for path in (tmp_path / "store").rglob("*"):
            file.write(path, path.relative_to(tmp_path / "store"))
    with opened(directory=packed) as store:
        assert_holds(store, *data())
        with pytest.raises(StorageError, match="zip file, which is read-only; unpack it"):
            store.add(*data(1))
        store.forget(100)
        assert_holds(store, *data(), forgotten=100)
        twin = store.copy()
        twin.add(*data(1))
        assert twin.next_id == ROWS + 1


def test_a_zip_file_with_the_folder_in_it_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "store", 10)
    packed = shutil.make_archive(str(tmp_path / "store"), "zip", tmp_path, "store")
    with pytest.raises(StorageError, match="must be at the root"):
        opened(directory=packed)


def zipped(store: Path, packed: Path) -> Path:
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in store.rglob("*"):
            file.write(path, path.relative_to(store))
    return packed


def test_a_hostile_zip_file_writes_nothing_outside(store: Path, victim: Path) -> None:
    edited(store, setting("log.0.name", "../../victim"))
    packed = zipped(store, store.with_name("hostile.zip"))
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("../victim/letter.txt", "evil")
        file.writestr("log/../../victim/zarr.json", "evil")
    before = contents(victim)
    with pytest.raises(StorageError, match=r"log\.0\.name"):
        opened(directory=packed)
    assert contents(victim) == before


def test_a_zip_bomb_is_not_unpacked(store: Path, tmp_path: Path) -> None:
    (store / "zarr.json").unlink()
    packed = zipped(store, tmp_path / "bomb.zip")
    with (
        zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as file,
        file.open("zarr.json", "w") as member,
    ):
        for _ in range(2**7):
            member.write(bytes(2**20))
    with pytest.raises(StorageError, match="too large"):
        opened(directory=packed)


def test_damaged_zip_files_are_refused_by_name(store: Path, tmp_path: Path) -> None:
    whole = zipped(store, tmp_path / "store.zip").read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with opened(directory=damaged) as found:
                assert_holds(found, *data(), forgotten=300)
        except StorageError as error:
            assert "damaged.zip" in str(error)  # noqa: PT017
