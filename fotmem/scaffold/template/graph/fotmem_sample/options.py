"""The options of the store, which users pass by keyword."""

from pydantic import Field

from fotmem.stores import IndexedOptions


class SampleOptions(IndexedOptions):
    """Options of the `sample` store, beside those of any index."""

    block: int = Field(default=64, ge=1)
    """Queries that are compared with the vectors at a time: more need more memory."""
