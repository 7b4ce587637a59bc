"""Stores on disk."""

import functools
import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from fotmem.errors import FotmemError
from fotmem.testing.store.expectations import expect
from fotmem.testing.store.garbage import new_garbage_only
from fotmem.testing.store.hits import expect_contents, expect_exact
from fotmem.testing.store.naive import DTYPES, draw
from fotmem.testing.store.refusals import expect_refusal
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair


class Persistence:
    """Stores on disk."""

    @pytest.fixture
    def lasting(self, stores: Stores) -> Stores:
        """Skip unless the store is persistent."""
        if not stores.capabilities.persistent:
            pytest.skip("the store does not declare that it is persistent")
        return stores

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("dropped", [0, 11, 60])
    def test_reopening(
        self, lasting: Stores, tmp_path: Path, dtype: torch.dtype, dropped: int
    ) -> None:
        """A reopened store has the same keys and ids as before, without the forgotten ones."""
        keys, values = pair(80, dtype)
        where = tmp_path / "store"
        store = lasting.filled(keys[:, :60], values[:, :60], first_id=5, directory=where)
        store.forget(dropped)
        store.flush()
        lasting.close(store)
        store = lasting.empty(dtype=dtype, directory=where)
        expect_contents(store, keys[:, dropped:60], values[:, dropped:60], first_id=5 + dropped)
        store.add(keys[:, 60:], values[:, 60:])
        lasting.close(store)
        store = lasting.empty(dtype=dtype, directory=where)
        expect_contents(store, keys[:, dropped:], values[:, dropped:], first_id=5 + dropped)

    @new_garbage_only()
    def test_flushing_without_closing(self, lasting: Stores, tmp_path: Path) -> None:
        """A store that was flushed and never closed reopens with all its keys."""
        keys, values = pair(60)
        for round_, cuts in enumerate(((), (1, 30))):
            where = tmp_path / str(round_)
            store = lasting.filled(keys, values, cuts=cuts, directory=where)
            store.flush()
            lasting.release(store)
            del store
            gc.collect()
            store = lasting.empty(directory=where)
            expect_contents(store, keys, values)

    def test_flushing_often(self, lasting: Stores, tmp_path: Path) -> None:
        """Flushing after each `add`, and reopening in between, loses nothing."""
        keys, values = pair(120)
        store, where = lasting.empty(directory=tmp_path / "store"), tmp_path / "store"
        for begin in range(0, 120, 12):
            store.add(keys[:, begin : begin + 12], values[:, begin : begin + 12])
            store.flush()
            store.flush()
            if begin % 36 == 0:
                lasting.close(store)
                store = lasting.empty(directory=where)
                expect_contents(store, keys[:, : begin + 12], values[:, : begin + 12])
        expect_contents(store, keys, values)

    def test_opening_as_another_layer(self, lasting: Stores, tmp_path: Path) -> None:
        """Opening with other heads, dimension or dtype is refused, and harms nothing."""
        keys, values = pair(60)
        where = tmp_path / "store"
        lasting.close(lasting.filled(keys, values, directory=where))
        others: tuple[dict[str, Any], ...] = (
            {"num_heads": HEADS + 1},
            {"num_heads": 1},
            {"head_dim": DIM // 2},
            {"head_dim": 2 * DIM},
            {"num_heads": 2 * HEADS, "head_dim": DIM // 2},
            {"dtype": torch.float16},
            {"dtype": torch.bfloat16},
        )
        for other in others:
            call = functools.partial(lasting.empty, directory=where, **other)
            expect_refusal(FotmemError, call, f"to open {HEADS} x {DIM} float32 as {other}")
        expect_contents(lasting.empty(directory=where), keys, values)

    def test_directories_are_apart(self, lasting: Stores, tmp_path: Path) -> None:
        """Stores in two directories are independent, and a copy writes into neither."""
        keys, values = pair(60)
        one = lasting.filled(keys[:, :40], values[:, :40], directory=tmp_path / "one")
        other = lasting.filled(keys[:, 40:], values[:, 40:], directory=tmp_path / "other")
        twin = one.copy()
        for store in (one, other):
            lasting.close(store)
        twin.add(keys, values)
        twin.forget(50)
        twin.flush()
        twin.close()
        one = lasting.empty(directory=tmp_path / "one")
        expect_contents(one, keys[:, :40], values[:, :40])
        other = lasting.empty(directory=tmp_path / "other")
        expect_contents(other, keys[:, 40:], values[:, 40:])

    def test_an_empty_directory(self, lasting: Stores, tmp_path: Path) -> None:
        """A store that was flushed before anything was added reopens as an empty one."""
        where = tmp_path / "store"
        store = lasting.empty(directory=where)
        store.flush()
        lasting.close(store)
        store = lasting.empty(directory=where)
        expect(len(store), 0, "len")
        keys = draw(HEADS, 9, DIM)
        store.add(keys, keys)
        queries = draw(HEADS, 4, DIM, seed=1)
        expect_exact(store.search(queries, 3), queries, keys, 3)
