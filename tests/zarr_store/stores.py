"""The `zarr` stores that these tests write, and what they must hold."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fotmem import create_store
from fotmem.testing.store.expectations import expect_attention
from fotmem.testing.store.hits import expect_exact
from fotmem.testing.store.naive import draw, naive_attention
from fotmem_zarr.store import ZarrStore

ROOT = Path(__file__).parents[2]

HEADS, DIM, ROWS = 2, 16, 3000


KINDS = ("log", "segments", "tail")


opened = functools.partial(
    create_store, "zarr", num_heads=HEADS, head_dim=DIM, ram=2**20, nprobe=10_000
)


def data(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return draw(HEADS, rows, DIM, dtype=dtype), draw(HEADS, rows, DIM, seed=1, dtype=dtype)


def fill(directory: Any, rows: int = ROWS, **options: Any) -> None:
    keys, values = data(rows, options.get("dtype", torch.float32))
    with opened(directory=directory, **options) as store:
        for k, v in zip(keys.split(500, 1), values.split(500, 1), strict=True):
            store.add(k, v)


def assert_holds(store: Any, keys: Tensor, values: Tensor, forgotten: int = 0) -> None:
    q = draw(HEADS, 5, DIM, seed=2)
    assert (store.next_id, len(store)) == (keys.shape[1], keys.shape[1] - forgotten)
    keys, values = keys[:, forgotten:], values[:, forgotten:]
    expect_exact(store.search(q, 12), q, keys, 12, first_id=forgotten)
    dense = store.attend(q, top_k=None, scale=0.25)
    expect_attention(dense, naive_attention(q, keys, values, 0.25), torch.float32)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def used(directory: Any, *, closed: bool = True) -> None:
    """Do everything that can be done with a store."""
    store = opened(directory=directory)
    try:
        look_at(store)
        store.add(*data(600))
        store.forget(700)
        store.flush()
        look_at(store)
    finally:
        if closed:
            store.close()


def look_at(store: Any) -> None:
    assert_holds(store, *data(), forgotten=300) if len(store) == ROWS - 300 else store.search(
        draw(HEADS, 1, DIM), 5
    )


def filled(
    rows: int, *, dtype: torch.dtype = torch.float32, step: int = 97, **options: Any
) -> tuple[ZarrStore, Tensor, Tensor]:
    keys, values = (draw(HEADS, rows, DIM, seed=seed, dtype=dtype) for seed in range(2))
    keys *= torch.linspace(0.1, 3, rows)[:, None]
    options.setdefault("ram", 2**20 * dtype.itemsize // 4)
    store = opened(dtype=dtype, **options)
    for k, v in zip(keys.split(step, 1), values.split(step, 1), strict=True):
        store.add(k, v)
    assert isinstance(store, ZarrStore)
    return store, keys, values


def folder_of(store: ZarrStore) -> Path:
    storage: Any = store._contents.files.storage
    return Path(storage.path)
