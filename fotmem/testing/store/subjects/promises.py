"""Tests of what a store declares, and of what the test class may change."""

import gc
import random
import tempfile
import weakref
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fotmem.testing.store.expectations import expect, expect_attention, expect_rows, fail
from fotmem.testing.store.garbage import new_garbage_only
from fotmem.testing.store.hits import expect_contents, expect_exact
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.own_names import names_used_twice
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair
from fotmem.testing.store.surroundings import surroundings, unusual_surroundings

MAY_CHANGE = {"large", "make_store", "min_recall", "min_mass", "capabilities"}


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("fotmem.testing.")


class Promises:
    """What is declared."""

    def test_only_the_bounds_are_changed(self) -> None:
        """The test class changes none of the contract's tests, only its bounds."""
        kinds = list(takewhile(lambda kind: not _is_ours(kind), type(self).__mro__))
        contract = type(self).__mro__[len(kinds)]
        ours = {name for name in dir(contract) if not name.startswith("_")}
        changed = {name for kind in kinds for name in vars(kind)} & ours
        expect(sorted(changed - MAY_CHANGE - {"teardown_class"}), [], "what the test class changes")
        for name in ("min_recall", "min_mass"):
            bound = getattr(self, name)
            if not (isinstance(bound, float | int) and 0 < bound <= 1):
                fail(f"{name} must be above 0 and at most 1, got {bound!r}")

    def test_no_private_name_is_used_twice(self, stores: Stores) -> None:
        """The store's own attributes are not named as private ones of its base classes."""
        kind = type(stores.empty())
        twice = [f"{name} (of {base})" for name, base in names_used_twice(kind).items()]
        if twice:
            fail(
                f"{kind.__name__} uses private names of its base classes: {', '.join(twice)}; give "
                "its own attributes and methods other names"
            )

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_declared_devices(self, stores: Stores, device: str, dtype: torch.dtype) -> None:
        """Every call works on each declared device, with inputs on any device."""
        if device not in stores.capabilities.devices:
            pytest.skip(f"the store does not declare {device}")
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("there is no CUDA device here")
        keys, values = (
            draw(HEADS, 300, DIM, dtype=dtype),
            draw(HEADS, 300, DIM, seed=1, dtype=dtype),
        )
        for caller in {"cpu", device}:
            store = stores.filled(keys.to(caller), values.to(caller), cuts=(100,), device=device)
            expect(store.device.type, device, "device of the store")
            store.forget(30)
            queries = draw(HEADS, 20, DIM, seed=2)
            for each in (store, store.copy()):
                hits = each.search(queries.to(caller), 16)
                expect(hits.ids.device.type, caller, "device of the hits")
                expect_exact(_on_cpu(hits), queries, keys[:, 30:], 16, first_id=30)
                expect_rows(each.values(hits.ids), hits.ids, values[:, 30:], "values", first_id=30)
                part = each.attend(queries.to(caller), top_k=270, scale=0.3)
                expected = naive_attention(queries, keys[:, 30:], values[:, 30:], 0.3)
                expect_attention(part, expected, torch.float32, torch.device(caller))

    def test_flush_and_close(self, stores: Stores) -> None:
        """`flush` works at any time, and a `with` block closes the store."""
        keys, values = pair(40)
        store = stores.empty()
        stores.release(store)
        with store as entered:
            expect(entered is store, True, "whether `with store as s` gives the store")
            store.flush()
            store.add(keys, values)
            store.flush()
            expect_contents(store, keys, values)
            store.forget(10)
            store.flush()
            expect_contents(store, keys[:, 10:], values[:, 10:], first_id=10)

    def test_closing_twice(self, stores: Stores) -> None:
        """Closing a store twice does nothing."""
        store = stores.filled(*pair(40))
        stores.release(store)
        store.close()
        store.close()

    @new_garbage_only()
    def test_nothing_is_left_behind(
        self, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store that is closed or dropped leaves nothing in memory or in temporary folders."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for close in (True, False):
            store = stores.filled(*pair(5000), cuts=(3000,))
            stores.release(store)
            store.search(draw(HEADS, 3, DIM), 4)
            if close:
                store.close()
            alive = weakref.ref(store)
            del store
            gc.collect()
            if alive() is not None:
                fail("a store without any reference is still in memory")
            expect([file.name for file in tmp_path.iterdir()], [], "files in the temporary folder")

    def test_nothing_global_changes(
        self, stores: Stores, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A store changes no environment, folder, output, warnings, signals or torch settings."""
        keys, values = pair(5000)
        torch.rand(3), np.random.rand(3), random.random()  # so that no state is a fresh one
        capfd.readouterr()
        with unusual_surroundings(tmp_path):
            before = surroundings()
            store = stores.filled(keys, values, cuts=(4500,))
            store.search(keys[:, :3], 4)
            store.attend(keys[:, :3], top_k=None, scale=0.3)
            store.copy().close()
            store.forget(4000)
            store.flush()
            stores.close(store)
            after = surroundings()
        out, err = capfd.readouterr()
        for name in [*before, *(after.keys() - before.keys())]:
            if before.get(name) != after.get(name):
                fail(f"a store changed {name}, from {before.get(name)!r} to {after.get(name)!r}")
        for name, text in (("stdout", out), ("stderr", err)):
            if text:
                fail(f"a store wrote to {name}: {text[:200]!r}; raise an error, or warn")

    @new_garbage_only()
    def test_stores_may_be_dropped(self, stores: Stores) -> None:
        """Dropping a store without `close` raises nothing and harms no other store."""
        keys, values = pair(40)
        kept, dropped = (stores.filled(keys, values) for _ in range(2))
        stores.release(dropped)
        del dropped
        gc.collect()
        expect_contents(kept, keys, values)


def _on_cpu(hits: Any) -> Any:
    return type(hits)(hits.ids.cpu(), hits.scores.cpu())
