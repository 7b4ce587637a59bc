"""The options of the store, which users pass by keyword."""

from pydantic import Field

from fotmem.stores import IndexedOptions


class SampleOptions(IndexedOptions):
    """Options of the `sample` store, beside those of any index."""

    rerank: int = Field(default=2, ge=1)
    """Candidates per hit, whose scores are computed again: more find more, and take longer."""
