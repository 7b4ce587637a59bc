"""What this package offers. Nothing heavy is imported here: fotmem does so to list stores."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import MemoryStore, StoreOptions


class SampleOptions(StoreOptions):
    """Options of the `sample` store, which users pass by keyword."""

    place: Literal["ram", "mmap"] = "ram"
    """Where keys and values are kept: in memory, or in temporary files."""


def create_sample(
    *,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    directory: Path | None,
    options: SampleOptions,
) -> MemoryStore:
    """Create an empty store. A kNN library is imported with the store's module, not before."""
    from fotmem_sample.store import SampleStore

    return SampleStore(
        num_heads=num_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
        options=options,
    )


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `sample`."""
    yield StoreSpec(
        name="sample",
        factory=create_sample,
        options=SampleOptions,
        # What callers may expect, and the contract checks. `exact=False`, once an index
        # approximates; `devices=("cpu", "cuda")`, once tensors may stay on a GPU.
        capabilities=StoreCapabilities(exact=True, devices=("cpu",)),
        # With a kNN library: requires=("its_import_name",)
    )
