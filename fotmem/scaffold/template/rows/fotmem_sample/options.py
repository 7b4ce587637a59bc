"""The options of the store, which users pass by keyword."""

from typing import Literal

from fotmem.stores import StoreOptions


class SampleOptions(StoreOptions):
    """Options of the `sample` store."""

    place: Literal["ram", "mmap"] = "ram"
    """Where keys and values are kept: in memory, or in temporary files."""
