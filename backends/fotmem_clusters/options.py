"""The options of the `clusters` store."""

from pydantic import Field

from fotmem.stores import IndexedOptions


class ClustersOptions(IndexedOptions):
    """Options of the `clusters` store."""

    capacity: int = Field(default=64, ge=4, le=4096)
    """Most keys of a cluster; half of them on average. Fewer estimate better, and take more RAM."""
    budget: int = Field(default=640, ge=1, lt=2**31)
    """Keys of clusters that a query reads."""
