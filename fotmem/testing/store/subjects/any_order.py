"""Random sequences of calls, compared with a plain list of keys and values."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from fotmem.testing.store.calls import Calls
from fotmem.testing.store.naive import DTYPES, quick
from fotmem.testing.store.stores import Stores


class AnyOrder:
    """Any order of calls."""

    @pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
    def test_any_order_of_calls(self, stores: Stores, dtype: torch.dtype, tmp_path: Path) -> None:
        """Random sequences of calls give the answers of a plain list of keys and values."""
        # Of a persistent store, once on disk and once without a directory.
        on_disk = stores.capabilities.persistent and dtype == torch.float32
        root = tmp_path if on_disk else None
        machine = type("Store", (Calls,), {"stores": stores, "dtype": dtype, "root": root})
        run_state_machine_as_test(
            machine, settings=settings(quick, max_examples=25, stateful_step_count=25)
        )
