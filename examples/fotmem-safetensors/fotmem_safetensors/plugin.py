"""What this package offers. Nothing heavy is imported here: fotmem reads it to list stores."""

from collections.abc import Iterable
from typing import Any

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import MemoryStore


def create_safetensors(**arguments: Any) -> MemoryStore:
    """Open the store of a directory, or begin one there; without a directory, in memory."""
    from fotmem_safetensors.store import SafetensorsStore

    return SafetensorsStore(**arguments)


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `safetensors`."""
    yield StoreSpec(
        name="safetensors",
        factory=create_safetensors,
        capabilities=StoreCapabilities(exact=True, persistent=True, forgets=True),
        requires=("safetensors",),
    )
