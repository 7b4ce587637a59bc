"""A memory for LLaMA: interchangeable kNN stores behind one interface.

A Focused Transformer (Tworkowski et al. 2023, arXiv:2307.03170) lets a few attention layers look
past the context window. `attach` gives a transformers model such a memory; `create_store` makes
the stores it is built from; plugins add more of both.

This module has the names that users of fotmem need. Authors of stores and adapters find more in
`fotmem.stores`, `fotmem.plugin`, `fotmem.adapter`, `fotmem.attention` and `fotmem.testing`; every
error is in `fotmem.errors`.
"""

TYPE_CHECKING = False  # as typing has it, which need not be imported for it
if TYPE_CHECKING:
    from typing import Any

    from fotmem import crossbatch, errors
    from fotmem.errors import FotmemError
    from fotmem.measure.retrieval_heads import find_memory_layers
    from fotmem.measure.select.selector import select
    from fotmem.memory.attachment import attach
    from fotmem.memory.cache import MemoryCache
    from fotmem.memory.choosing import using
    from fotmem.memory.explain import AttendedToken
    from fotmem.memory.longllama import load_longllama
    from fotmem.memory.memory import Memory
    from fotmem.memory.opening import open_memory
    from fotmem.memory.text import MemoryDocument
    from fotmem.models.load import load_recipe
    from fotmem.plugin.create import create_store
    from fotmem.plugin.registry import available_adapters, available_stores
    from fotmem.training.options import TrainingOptions
    from fotmem.training.tune import train

__version__ = "0.1.0"

__all__ = [
    "AttendedToken",
    "FotmemError",
    "Memory",
    "MemoryCache",
    "MemoryDocument",
    "TrainingOptions",
    "__version__",
    "attach",
    "available_adapters",
    "available_stores",
    "create_store",
    "crossbatch",
    "errors",
    "find_memory_layers",
    "load_longllama",
    "load_recipe",
    "open_memory",
    "select",
    "train",
    "using",
]

_HOMES = {
    "AttendedToken": "fotmem.memory.explain",
    "FotmemError": "fotmem.errors",
    "Memory": "fotmem.memory.memory",
    "MemoryCache": "fotmem.memory.cache",
    "MemoryDocument": "fotmem.memory.text",
    "TrainingOptions": "fotmem.training.options",
    "attach": "fotmem.memory.attachment",
    "available_adapters": "fotmem.plugin.registry",
    "available_stores": "fotmem.plugin.registry",
    "create_store": "fotmem.plugin.create",
    "crossbatch": "fotmem.crossbatch",
    "errors": "fotmem.errors",
    "find_memory_layers": "fotmem.measure.retrieval_heads",
    "load_longllama": "fotmem.memory.longllama",
    "load_recipe": "fotmem.models.load",
    "open_memory": "fotmem.memory.opening",
    "select": "fotmem.measure.select.selector",
    "train": "fotmem.training.tune",
    "using": "fotmem.memory.choosing",
}
"""Where each public name is; imported when it is first asked for.

torch takes a second to import: until then the command line could not answer Ctrl-C.
"""


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module 'fotmem' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_HOMES[name])
    value = module if _HOMES[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
