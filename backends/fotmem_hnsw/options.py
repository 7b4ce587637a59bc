"""The options of the `hnsw` store."""

from pydantic import Field

from fotmem.stores import IndexedOptions


class HnswOptions(IndexedOptions):
    """Options of the `hnsw` store (Malkov and Yashunin 2018, arXiv:1603.09320)."""

    M: int = Field(default=16, ge=2, le=512)
    """Links of a key: more find more, and take more memory (``8 * M`` bytes a key)."""
    ef_construction: int = Field(default=100, ge=8, lt=2**31)
    """Candidates for the links of a new key."""
    ef_search: int = Field(default=384, ge=1, lt=2**31)
    """Candidates that a search keeps: more find more, and take longer."""
