"""What this package offers. Nothing heavy is imported here: fotmem reads it to list stores."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `safetensors`."""
    yield StoreSpec(
        name="safetensors",
        factory="fotmem_safetensors.store:SafetensorsStore",
        capabilities=StoreCapabilities(exact=True, persistent=True, forgets=True),
        requires=("safetensors",),
    )
