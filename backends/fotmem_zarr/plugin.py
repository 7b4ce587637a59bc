"""What this plugin offers."""

from collections.abc import Iterable
from typing import Any

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import MemoryStore
from fotmem_zarr.options import ZarrOptions


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
