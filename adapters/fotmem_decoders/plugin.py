"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import AdapterSpec, hookimpl
from fotmem_decoders.families import FAMILIES


@hookimpl
def fotmem_adapters() -> Iterable[AdapterSpec]:
    """Declare an adapter for each family of the table."""
    for name, (architecture, adapter) in FAMILIES.items():
        yield AdapterSpec(
            name=name,
            architectures=(architecture,),
            factory=f"fotmem_decoders.adapters:{adapter}",
        )
