"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.adapter import Adapter
from fotmem.plugin import AdapterSpec, hookimpl


def create_llama_adapter() -> Adapter:
    """Create the adapter; imports transformers' LLaMA."""
    from fotmem_llama.adapter import LlamaAdapter

    return LlamaAdapter()


@hookimpl
def fotmem_adapters() -> Iterable[AdapterSpec]:
    """Declare `llama`."""
    yield AdapterSpec(
        name="llama", architectures=("LlamaForCausalLM",), factory=create_llama_adapter
    )
