"""The options of the `clusters` store."""

from pydantic import Field

from fotmem.stores import IndexedOptions


class ClustersOptions(IndexedOptions):
    """Options of the `clusters` store."""

    capacity: int = Field(default=64, ge=4, le=4096)
    """Most keys of a cluster; two thirds on average. Fewer estimate better, and take more RAM."""
    budget: int | None = Field(default=None, ge=1, lt=2**31)
    """Keys that a query reads, about; default: as many as `target_error` needs."""
    target_error: float | None = Field(default=None, ge=0, lt=100)
    """A query reads until the estimated relative error of its output is this, but no more than its
    budget. Default: 0.2, and at most 8,192 keys, or a 32nd of all if that is more; with a budget
    alone, just that.
    """
