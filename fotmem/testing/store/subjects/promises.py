"""What a store declares, and what the test class may change."""

import gc
import random
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fotmem.testing.store.expectations import expect, expect_attention, expect_rows, fail
from fotmem.testing.store.hits import expect_contents, expect_exact
from fotmem.testing.store.naive import DTYPES, draw, naive_attention
from fotmem.testing.store.stores import DIM, HEADS, Stores, pair

MAY_CHANGE = {"make_store", "min_recall", "min_mass", "capabilities"}


class Promises:
    """What is declared."""

    def test_only_the_bounds_are_changed(self) -> None:
        """The test class changes the contract's bounds at most, and none of its tests."""
        from fotmem.testing.store.contract import StoreContract

        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, StoreContract)]
        ours = {name for name in dir(StoreContract) if not name.startswith("_")}
        changed = {name for kind in kinds[:-1] for name in vars(kind)} & ours
        expect(sorted(changed - MAY_CHANGE - {"teardown_class"}), [], "what the test class changes")
        for name in ("min_recall", "min_mass"):
            bound = getattr(self, name)
            if not (isinstance(bound, float | int) and 0 < bound <= 1):
                fail(f"{name} must be above 0 and at most 1, got {bound!r}")

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_declared_devices(self, stores: Stores, device: str, dtype: torch.dtype) -> None:
        """On each declared device, for callers on any: search, attend, forget, look up and copy."""
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
        """A store may be flushed at any time, and closes itself at the end of a `with` block."""
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
        """Closing a store once more does nothing."""
        store = stores.filled(*pair(40))
        stores.release(store)
        store.close()
        store.close()

    def test_nothing_is_left_behind(
        self, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store that is closed or dropped is gone: from memory, and from temporary folders."""
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
                fail("a store that nothing refers to any more is still in memory")
            expect([file.name for file in tmp_path.iterdir()], [], "files in the temporary folder")

    def test_nothing_global_changes(self, stores: Stores) -> None:
        """Threads, random numbers, gradients and the default dtype are as the caller left them."""
        keys, values = pair(5000)
        torch.rand(3), np.random.rand(3), random.random()  # so that no state is a fresh one
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            with torch.enable_grad():
                before = _surroundings()
                store = stores.filled(keys, values, cuts=(4500,))
                store.search(keys[:, :3], 4)
                store.attend(keys[:, :3], top_k=None, scale=0.3)
                store.copy().close()
                store.forget(4000)
                store.flush()
                after = _surroundings()
        finally:
            torch.set_num_threads(threads)
        for name, now in after.items():
            expect(now, before[name], f"{name} after using a store")

    def test_stores_may_be_dropped(self, stores: Stores) -> None:
        """Dropped without `close`, a store goes away quietly, and others stay as they are."""
        keys, values = pair(40)
        kept, dropped = (stores.filled(keys, values) for _ in range(2))
        stores.release(dropped)
        del dropped
        gc.collect()
        expect_contents(kept, keys, values)

    def test_an_estimated_tail(self, stores: Stores) -> None:
        """A store that estimates its tail still weighs at least its hits, and only its values."""
        if not stores.capabilities.estimates_tail:
            pytest.skip("the store does not declare that it estimates: see test_dense_attention")
        keys, values, queries = (draw(HEADS, n, DIM, seed=n) for n in (200, 200, 9))
        store = stores.filled(keys, values.roll(1, dims=1))
        part = store.attend(queries, top_k=None, scale=0.3)
        best = store.search(queries, 1).scores[..., 0] * 0.3
        if not ((part.lse >= best - 1e-4) & (part.lse <= best + 5.31)).all():  # log(200)
            fail("lse must lie between that of the best hit and that of 200 such hits")
        if not (part.out.abs() <= 1.0001 * values.abs().max()).all():
            fail("out must be a mean of values, got numbers larger than all of them")


def _surroundings() -> dict[str, object]:
    return {
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "the state of torch's random numbers": hash(torch.get_rng_state().numpy().tobytes()),
        "the state of numpy's random numbers": repr(np.random.get_state(legacy=False)),
        "the state of Python's random numbers": hash(random.getstate()),
    }


def _on_cpu(hits: Any) -> Any:
    return type(hits)(hits.ids.cpu(), hits.scores.cpu())
