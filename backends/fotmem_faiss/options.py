"""The options of the stores that search by FAISS."""

from pydantic import Field

from fotmem.stores import IndexedOptions, StoreOptions


class FlatOptions(StoreOptions):
    """Options of `faiss-flat`."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads that search; default: the number that torch uses."""


class IvfOptions(IndexedOptions):
    """Options of `faiss-ivf`."""

    nprobe: int = Field(default=32, ge=1, lt=2**31)
    """Lists that a query searches: more find more, and take longer."""
    nlist: int | None = Field(default=None, ge=1, lt=2**31)
    """Lists of a head; default: ``2 * sqrt(N)``, growing with the memory."""


class IvfpqOptions(IvfOptions):
    """Options of `faiss-ivfpq`."""

    rerank: int = Field(default=8, ge=1, lt=2**31)
    """Candidates per hit, which are re-ranked by their full keys."""


class HnswOptions(IndexedOptions):
    """Options of `faiss-hnsw`."""

    M: int = Field(default=16, ge=2, le=512)
    """Links of a key: more find more, and take more memory (``8 * M`` bytes a key)."""
    ef_construction: int = Field(default=100, ge=8, lt=2**31)
    """Candidates for the links of a new key."""
    ef_search: int = Field(default=384, ge=1, lt=2**31)
    """Candidates that a search keeps: more find more, and take longer."""
