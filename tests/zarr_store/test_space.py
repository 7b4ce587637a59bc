"""What the `zarr` store takes on disk, and the budgets that it accepts."""

import gc

import pytest

from fotmem import create_store
from fotmem.errors import OptionError
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import (
    draw,
)
from fotmem_zarr.store import ZarrStore
from tests.zarr_store.stores import DIM, HEADS, filled, folder_of, opened


@pytest.mark.parametrize("how", ["close", "collect"])
def test_a_temporary_folder_goes_away_with_its_store(how: str) -> None:
    store, _, _ = filled(3000)
    folder = folder_of(store)
    assert list(folder.glob("segments/*/keys/zarr.json"))
    if how == "close":
        store.close()
    del store
    gc.collect()
    assert not folder.exists()


def test_a_small_store_writes_nothing() -> None:
    store = create_store("zarr", num_heads=HEADS, head_dim=DIM)
    store.add(draw(HEADS, 500, DIM), draw(HEADS, 500, DIM))
    assert isinstance(store, ZarrStore)
    assert store._contents.files.storage is None


def test_forgetting_frees_space() -> None:
    store, keys, _ = filled(6000, step=500)
    folder = folder_of(store)

    def size() -> int:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    before = size()
    store.forget(5500)
    assert size() < before / 2
    q = draw(HEADS, 5, DIM)
    expect_exact(store.search(q, 20), q, keys[:, 5500:], 20, first_id=5500)


@pytest.mark.parametrize("ram", ["64", 1000, "many", -1])
def test_a_wrong_budget_is_refused(ram: str | int) -> None:
    with pytest.raises(OptionError, match="ram"):
        opened(ram=ram)


def test_budgets_may_be_strings() -> None:
    for ram in ("1MiB", "1 MB", 2**20):
        opened(ram=ram)
