"""What a store declares, and what the test class may change."""

import gc
from typing import Any

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


def _on_cpu(hits: Any) -> Any:
    return type(hits)(hits.ids.cpu(), hits.scores.cpu())
