"""What this package offers. Nothing heavy is imported here: fotmem does so to list stores."""

from collections.abc import Iterable
from typing import Literal

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import StoreOptions


class SampleOptions(StoreOptions):
    """Options of the `sample` store, which users pass by keyword."""

    place: Literal["ram", "mmap"] = "ram"
    """Where keys and values are kept: in memory, or in temporary files."""


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `sample`."""
    yield StoreSpec(
        name="sample",
        factory="fotmem_sample.store:SampleStore",
        options=SampleOptions,
        # What callers may expect, and the contract checks. `exact=False`, once an index
        # approximates; `devices=("cpu", "cuda")`, once tensors may stay on a GPU.
        capabilities=StoreCapabilities(exact=True, devices=("cpu",)),
        # With a kNN library: requires=("its_import_name",)
    )
