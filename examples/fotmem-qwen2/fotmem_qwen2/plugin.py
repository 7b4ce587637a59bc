"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.adapter import Adapter
from fotmem.plugin import AdapterSpec, hookimpl


def create_qwen2_adapter() -> Adapter:
    """Create the adapter; imports transformers' Qwen2."""
    from fotmem_qwen2.adapter import Qwen2Adapter

    return Qwen2Adapter()


@hookimpl
def fotmem_adapters() -> Iterable[AdapterSpec]:
    """Declare `qwen2`."""
    yield AdapterSpec(
        name="qwen2", architectures=("Qwen2ForCausalLM",), factory=create_qwen2_adapter
    )
