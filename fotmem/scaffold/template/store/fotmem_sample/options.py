"""The options of the store, which users pass by keyword."""

from pydantic import Field

from fotmem.stores import StoreOptions


class SampleOptions(StoreOptions):
    """Options of the `sample` store."""

    block: int = Field(default=1024, ge=1)
    """Keys that are looked at at a time: fewer need less memory, more are faster."""
