"""Damaged, exchanged and missing files."""

import itertools
import shutil
from pathlib import Path

import pytest
import torch

from fotmem.errors import StorageError
from fotmem.testing.store.naive import draw
from tests.zarr_store.stores import DIM, HEADS, ROWS, assert_holds, data, fill, look_at, opened


def chunk_files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("c.*") if ".partial" not in path.name)


def key_files(directory: Path, kind: str) -> list[Path]:
    found = [path for path in (directory / kind).rglob("c.*") if path.parent.name == "keys"]
    assert found
    return found


def look_at_all(directory: Path) -> None:
    with opened(directory=directory) as store:
        store.search(draw(HEADS, 1, DIM), 5)
        store.keys(torch.zeros(HEADS, 1, 1, dtype=torch.long))


@pytest.mark.parametrize("kind, cure", [("segments", "remove its folder"), ("log", "from a copy")])
@pytest.mark.parametrize("how", ["damaged", "truncated", "missing"])
def test_a_broken_chunk_is_named_never_a_wrong_answer(
    tmp_path: Path, kind: str, cure: str, how: str
) -> None:
    fill(tmp_path)
    for file in key_files(tmp_path, kind):
        if how == "missing":
            file.unlink()
            continue
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content if how == "damaged" else content[:100])
    with pytest.raises(StorageError) as raised:
        look_at_all(tmp_path)
    for part in (how, kind, "chunk 0 of head", str(tmp_path), cure):
        assert part in str(raised.value)


def test_a_right_chunk_in_a_wrong_place_is_damage(tmp_path: Path) -> None:
    store, (keys, values) = tmp_path / "store", data()
    fill(store)
    pairs = [
        pair
        for pair in itertools.combinations(chunk_files(store), 2)
        if pair[0].stat().st_size == pair[1].stat().st_size
    ]
    some = pairs[:: max(1, len(pairs) // 20)]
    assert len(some) >= 20
    for one, other in some:
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        with pytest.raises(StorageError, match=r"is in the wrong place"):
            read_everything(store)
        one.write_bytes(first)
        other.write_bytes(second)
    with opened(directory=store) as again:
        assert_holds(again, keys, values)


def read_everything(directory: Path) -> None:
    keys, values = data()
    ids = torch.arange(ROWS).expand(HEADS, 1, -1)
    store = opened(directory=directory)
    assert torch.equal(store.values(ids)[:, 0], values)
    assert torch.equal(store.keys(ids)[:, 0], keys)
    store.search(draw(HEADS, 40, DIM), 9)


def test_a_file_of_another_store_with_the_same_history_is_damage(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for where in (one, other):
        fill(where)
    for path in chunk_files(one):
        shutil.copy(other / path.relative_to(one), path)
    with pytest.raises(StorageError, match="is in the wrong place"):
        opened(directory=one)
    for path in chunk_files(other):
        shutil.copy(path, one / path.relative_to(other))
    shutil.copy(other / "zarr.json", one / "zarr.json")
    with pytest.raises(StorageError, match="checksum differs"):
        opened(directory=one)


def test_damage_to_any_zarr_json_is_noticed(store: Path) -> None:
    for path in sorted(store.rglob("zarr.json")):
        before = path.read_bytes()
        for damage in (before[:-9], before.replace(b"3", b"2", 1), b"", b"[" * 100_000, b"null"):
            path.write_bytes(damage)
            with pytest.raises(StorageError, match=r"zarr\.json"):
                opened(directory=store)
        path.write_bytes(before)
    with opened(directory=store) as again:
        look_at(again)


def test_the_id_of_another_store_is_named(tmp_path: Path) -> None:
    for name in ("one", "other"):
        fill(tmp_path / name, 10)
    shutil.copy(tmp_path / "other/log/zarr.json", tmp_path / "one/log/zarr.json")
    with pytest.raises(StorageError, match=r"log/zarr\.json of .* is damaged"):
        opened(directory=tmp_path / "one")
