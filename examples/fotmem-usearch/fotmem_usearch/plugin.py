"""What this package offers. fotmem imports this module to list stores: keep it light."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem_usearch.options import UsearchOptions


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `usearch`."""
    yield StoreSpec(
        name="usearch",
        factory="fotmem_usearch.store:UsearchStore",
        options=UsearchOptions,
        # What callers may expect, and what the contract checks.
        capabilities=StoreCapabilities(exact=False, devices=("cpu", "cuda"), forgets=True),
        # Options by which a search finds more, and values for benchmarks to try, ascending.
        grid={"expansion_search": (32, 64, 128, 256, 512)},
        # Modules that it needs, and what installs them: without these it is not available.
        requires=("usearch",),
        install="pip install usearch",
    )
