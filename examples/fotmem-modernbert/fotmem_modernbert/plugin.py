"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import AdapterSpec, hookimpl


@hookimpl
def fotmem_adapters() -> Iterable[AdapterSpec]:
    """Declare `modernbert-decoder`."""
    yield AdapterSpec(
        name="modernbert-decoder",
        architectures=("ModernBertDecoderForCausalLM",),
        factory="fotmem_modernbert.adapter:ModernBertDecoderAdapter",
    )
