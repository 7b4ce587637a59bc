"""What this plugin offers."""

from collections.abc import Iterable
from typing import Any

from pydantic import ByteSize, Field

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import MemoryStore, StoreOptions


class ZarrOptions(StoreOptions):
    """How much the store may hold in memory, and how far it looks."""

    ram: ByteSize = Field(default=ByteSize(256 * 2**20), validate_default=True)
    """Bytes, or a text such as ``"256MiB"``: what rows, index, cache and work may take."""
    nprobe: int = Field(default=32, ge=1, lt=2**31)
    """Clusters of at most 128 keys that a query reads, per head; more where there are more than
    65,536 keys, or several segments of like size."""
    exact: bool = False
    """Scan all keys instead."""


def create_zarr(**arguments: Any) -> MemoryStore:
    """Open what `directory` holds, or begin there; None: a temporary folder."""
    from fotmem_zarr.store import ZarrStore

    return ZarrStore(**arguments)


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `zarr`."""
    yield StoreSpec(
        name="zarr",
        factory=create_zarr,
        options=ZarrOptions,
        capabilities=StoreCapabilities(exact=False, persistent=True, forgets=True),
        grid={"nprobe": (4, 8, 16, 32, 64, 128)},
    )
