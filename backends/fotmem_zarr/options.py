"""The options of the `zarr` store."""

from pydantic import ByteSize, Field

from fotmem.stores import StoreOptions


class ZarrOptions(StoreOptions):
    """How much memory the store takes, and how far a query looks."""

    ram: ByteSize = Field(default=ByteSize(256 * 2**20), validate_default=True)
    """Memory for rows, index, cache and work: bytes, or a str such as ``"256MiB"``."""
    nprobe: int = Field(default=32, ge=1, lt=2**31)
    """Clusters of at most 128 keys that a query reads per head; more where there are more than
    65,536 keys, or several segments of like size."""
    exact: bool = False
    """Scan all keys instead."""
