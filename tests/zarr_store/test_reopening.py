"""The `zarr` store opened again, under whatever name of its directory."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fotmem import FotmemError
from fotmem.errors import OptionError, StorageError
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import DTYPES, draw
from fotmem_zarr.store import ZarrStore
from tests.s3_server import S3Server
from tests.zarr_store.stores import DIM, HEADS, ROWS, assert_holds, data, fill, opened


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 100, ROWS])
def test_flushed_rows_are_there_again(tmp_path: Path, rows: int, dtype: torch.dtype) -> None:
    fill(tmp_path / "a" / "store", rows, dtype=dtype)
    for ram in (2**20, 2**22):
        with opened(directory=tmp_path / "a" / "store", dtype=dtype, ram=ram) as store:
            if rows:
                assert_holds(store, *data(rows, dtype))
            assert len(store) == rows


def test_adding_goes_on_after_reopening(tmp_path: Path) -> None:
    keys, values = data(4000)
    cuts = (0, 7, 40, 41, 900, 2500, 4000)
    for begin, end in itertools.pairwise(cuts):
        with opened(directory=str(tmp_path)) as store:
            store.add(keys[:, begin:end], values[:, begin:end])
            store.flush()
            store.flush()
            assert_holds(store, keys[:, :end], values[:, :end])
    assert len(list((tmp_path / "tail").glob("*/keys"))) <= 1


def test_segments_made_with_several_budgets_are_searched_together(tmp_path: Path) -> None:
    fill(tmp_path)
    first, last = data(), data(6000)
    with opened(directory=tmp_path, ram=2**22) as store:
        for k, v in zip(last[0].split(500, 1), last[1].split(500, 1), strict=True):
            store.add(k, v)
        assert isinstance(store, ZarrStore)
        assert len({segment.shard for segment in store._contents.now.segments}) == 2
        keys, values = (torch.cat(both, 1) for both in zip(first, last, strict=True))
        assert_holds(store, keys, values)


def test_small_flushes_make_few_pieces(tmp_path: Path) -> None:
    keys, values = data(60)
    with opened(directory=tmp_path, ram="16MiB") as store:
        for k, v in zip(keys.split(1, 1), values.split(1, 1), strict=True):
            store.add(k, v)
            store.flush()
    assert len(list((tmp_path / "tail").glob("*/keys"))) <= 6
    with opened(directory=tmp_path) as store:
        assert_holds(store, keys, values)


def test_ids_and_forgotten_rows_survive_reopening(tmp_path: Path) -> None:
    keys, values = data()
    store = opened(directory=tmp_path)
    store.start_at(70)
    for k, v in zip(keys.split(500, 1), values.split(500, 1), strict=True):
        store.add(k, v)
    store.forget(1300)
    store.close()
    with opened(directory=tmp_path) as store:
        assert (store.first_id, store.next_id, len(store)) == (1370, ROWS + 70, ROWS - 1300)
        q = draw(HEADS, 5, DIM, seed=2)
        expect_exact(store.search(q, 12), q, keys[:, 1300:], 12, first_id=1370)


@pytest.mark.parametrize(
    "other, message",
    [({"num_heads": 3}, "H=3"), ({"head_dim": 8}, "D=8"), ({"dtype": torch.float16}, "float16")],
)
def test_another_kind_of_layer_is_refused(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    fill(tmp_path, 10)
    with pytest.raises(OptionError, match=f"H=2 heads of D=16 in float32.*{message}"):
        opened(directory=tmp_path, **other)
    with opened(directory=tmp_path) as store:
        assert_holds(store, *data(10))


def test_a_closed_store_refuses_calls(tmp_path: Path) -> None:
    store = opened(directory=tmp_path)
    store.add(*data(10))
    store.close()
    store.close()
    for call in (lambda: store.search(draw(HEADS, 1, DIM), 1), lambda: store.add(*data(1))):
        with pytest.raises(StorageError, match="closed; open it again"):
            call()


def test_removed_segments_are_rebuilt(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in (tmp_path / "segments").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with opened(directory=tmp_path) as store:
        assert isinstance(store, ZarrStore)
        assert store.chunks > 0
        assert_holds(store, *data())


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values = data()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with opened(directory="store") as store:
        store.add(keys[:, :1000], values[:, :1000])
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.add(keys[:, 1000:], values[:, 1000:])
    assert not list((tmp_path / "elsewhere").iterdir())
    with opened(directory=tmp_path / "store") as store:
        assert_holds(store, keys, values)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    fill(f"file://{tmp_path}/store", 10)
    with opened(directory=tmp_path / "store") as store:
        assert_holds(store, *data(10))


@pytest.mark.thorough
def test_a_url_opens_a_store(s3: S3Server) -> None:
    url = s3.url("store")
    fill(url)
    with opened(directory=url) as store:
        assert_holds(store, *data())
        store.forget(2000)
    with opened(directory=url) as store:
        assert_holds(store, *data(), forgotten=2000)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(FotmemError, match=r"(?s)none://bucket"):
        opened(directory="none://bucket/store")
