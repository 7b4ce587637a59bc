"""The options of the store, which users pass by keyword."""

from pydantic import Field

from fotmem.stores import IndexedOptions


class UsearchOptions(IndexedOptions):
    """Options of the `usearch` store, beside those of any index."""

    connectivity: int = Field(default=16, ge=2)
    """Links of a key: more find more, and take more memory."""
    expansion_add: int = Field(default=128, ge=1)
    """Candidates that are looked at for the links of a new key."""
    expansion_search: int = Field(default=128, ge=1)
    """Candidates that a search keeps: more find more, and take longer."""
