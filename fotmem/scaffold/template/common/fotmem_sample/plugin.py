"""What this package offers. fotmem imports this module to list stores: keep it light."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem_sample.options import SampleOptions


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `sample`."""
    yield StoreSpec(
        name="sample",
        factory="fotmem_sample.store:SampleStore",
        options=SampleOptions,
        # What callers may expect, and what the contract checks.
        capabilities=StoreCapabilities(exact=True),
        # Options by which a search finds more, and values for benchmarks to try, ascending.
        # grid={"your_option": (16, 64, 256)},
        # Modules that it needs, and what installs them: without these it is not available.
        requires=("sample_library",),
        install="pip install sample-library",
    )
