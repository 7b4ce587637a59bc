"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import AdapterSpec, hookimpl
from fotmem_modernbert.adapter import ModernBertDecoderAdapter


@hookimpl
def fotmem_adapters() -> Iterable[AdapterSpec]:
    """Declare `modernbert-decoder`."""
    yield AdapterSpec(
        name="modernbert-decoder",
        architectures=("ModernBertDecoderForCausalLM",),
        factory=ModernBertDecoderAdapter,
    )
