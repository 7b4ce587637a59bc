"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `exact`."""
    yield StoreSpec(
        name="exact",
        factory="fotmem_exact.store:ExactStore",
        capabilities=StoreCapabilities(exact=True, devices=("cpu", "cuda"), forgets=True),
    )
