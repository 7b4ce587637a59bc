"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem_zarr.options import ZarrOptions


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `zarr`."""
    yield StoreSpec(
        name="zarr",
        factory="fotmem_zarr.store:ZarrStore",
        options=ZarrOptions,
        capabilities=StoreCapabilities(exact=False, persistent=True, forgets=True),
        grid={"nprobe": (4, 8, 16, 32, 64, 128)},
    )
