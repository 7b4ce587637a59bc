"""A memory for LLaMA: interchangeable kNN stores behind one interface.

A Focused Transformer (Tworkowski et al. 2023, arXiv:2307.03170) lets a few attention layers look
past the context window. `attach` gives a transformers model such a memory; `create_store` makes
the stores it is built from; plugins add more of both.
"""

TYPE_CHECKING = False  # as typing has it, which need not be imported for it
if TYPE_CHECKING:
    from typing import Any

    from fotmem import crossbatch
    from fotmem.adapter import Adapter
    from fotmem.arrays import Ids, Vectors
    from fotmem.attachment import attach
    from fotmem.attention import WORKSPACE, PartialAttention, dense_attention, merge, topk_attention
    from fotmem.cache import MemoryCache
    from fotmem.errors import (
        AttachError,
        BusyError,
        CheckpointError,
        DtypeError,
        FotmemError,
        IdError,
        InputError,
        LayerError,
        MissingPackageError,
        ModelError,
        NonFiniteError,
        OptionError,
        ShapeError,
        StorageError,
        UnknownStoreError,
        UnsupportedError,
    )
    from fotmem.explain import Attended
    from fotmem.frame import Frame
    from fotmem.graphs import Graph, GraphStore
    from fotmem.hookspecs import hookimpl
    from fotmem.hubs import Hubs
    from fotmem.indexed import IndexedOptions, IndexedStore
    from fotmem.kmeans import moved_centres, nearest_centres
    from fotmem.longllama import load_longllama
    from fotmem.memory import Memory
    from fotmem.models import load_recipe
    from fotmem.parallel import over_heads
    from fotmem.proposal import LayerScores
    from fotmem.registry import available_adapters, available_stores, create_store
    from fotmem.retrieval import find_memory_layers
    from fotmem.rows import Rows
    from fotmem.rows_store import RowsStore
    from fotmem.search import best_hits, exact_search
    from fotmem.selection.choice import Selection
    from fotmem.selection.selector import select
    from fotmem.specs import AdapterSpec, StoreCapabilities, StoreOptions, StoreSpec
    from fotmem.store import Bias, Hits, MemoryStore
    from fotmem.training.fit import Trained
    from fotmem.training.options import TrainingOptions
    from fotmem.training.tune import train

__version__ = "0.1.0"

__all__ = [
    "WORKSPACE",
    "Adapter",
    "AdapterSpec",
    "AttachError",
    "Attended",
    "Bias",
    "BusyError",
    "CheckpointError",
    "DtypeError",
    "FotmemError",
    "Frame",
    "Graph",
    "GraphStore",
    "Hits",
    "Hubs",
    "IdError",
    "Ids",
    "IndexedOptions",
    "IndexedStore",
    "InputError",
    "LayerError",
    "LayerScores",
    "Memory",
    "MemoryCache",
    "MemoryStore",
    "MissingPackageError",
    "ModelError",
    "NonFiniteError",
    "OptionError",
    "PartialAttention",
    "Rows",
    "RowsStore",
    "Selection",
    "ShapeError",
    "StorageError",
    "StoreCapabilities",
    "StoreOptions",
    "StoreSpec",
    "Trained",
    "TrainingOptions",
    "UnknownStoreError",
    "UnsupportedError",
    "Vectors",
    "__version__",
    "attach",
    "available_adapters",
    "available_stores",
    "best_hits",
    "create_store",
    "crossbatch",
    "dense_attention",
    "exact_search",
    "find_memory_layers",
    "hookimpl",
    "load_longllama",
    "load_recipe",
    "merge",
    "moved_centres",
    "nearest_centres",
    "over_heads",
    "select",
    "topk_attention",
    "train",
]

_HOMES = {
    "Adapter": "fotmem.adapter",
    "AdapterSpec": "fotmem.specs",
    "AttachError": "fotmem.errors",
    "Attended": "fotmem.explain",
    "Bias": "fotmem.store",
    "BusyError": "fotmem.errors",
    "CheckpointError": "fotmem.errors",
    "DtypeError": "fotmem.errors",
    "FotmemError": "fotmem.errors",
    "Frame": "fotmem.frame",
    "Graph": "fotmem.graphs",
    "GraphStore": "fotmem.graphs",
    "Hits": "fotmem.store",
    "Hubs": "fotmem.hubs",
    "IdError": "fotmem.errors",
    "Ids": "fotmem.arrays",
    "IndexedOptions": "fotmem.indexed",
    "IndexedStore": "fotmem.indexed",
    "InputError": "fotmem.errors",
    "LayerError": "fotmem.errors",
    "LayerScores": "fotmem.proposal",
    "Memory": "fotmem.memory",
    "MemoryCache": "fotmem.cache",
    "MemoryStore": "fotmem.store",
    "MissingPackageError": "fotmem.errors",
    "ModelError": "fotmem.errors",
    "NonFiniteError": "fotmem.errors",
    "OptionError": "fotmem.errors",
    "PartialAttention": "fotmem.attention",
    "Rows": "fotmem.rows",
    "RowsStore": "fotmem.rows_store",
    "Selection": "fotmem.selection.choice",
    "ShapeError": "fotmem.errors",
    "StorageError": "fotmem.errors",
    "StoreCapabilities": "fotmem.specs",
    "StoreOptions": "fotmem.specs",
    "StoreSpec": "fotmem.specs",
    "Trained": "fotmem.training.fit",
    "TrainingOptions": "fotmem.training.options",
    "UnknownStoreError": "fotmem.errors",
    "UnsupportedError": "fotmem.errors",
    "Vectors": "fotmem.arrays",
    "WORKSPACE": "fotmem.attention",
    "attach": "fotmem.attachment",
    "available_adapters": "fotmem.registry",
    "available_stores": "fotmem.registry",
    "best_hits": "fotmem.search",
    "create_store": "fotmem.registry",
    "crossbatch": "fotmem.crossbatch",
    "dense_attention": "fotmem.attention",
    "exact_search": "fotmem.search",
    "find_memory_layers": "fotmem.retrieval",
    "hookimpl": "fotmem.hookspecs",
    "load_longllama": "fotmem.longllama",
    "load_recipe": "fotmem.models",
    "merge": "fotmem.attention",
    "moved_centres": "fotmem.kmeans",
    "nearest_centres": "fotmem.kmeans",
    "over_heads": "fotmem.parallel",
    "select": "fotmem.selection.selector",
    "topk_attention": "fotmem.attention",
    "train": "fotmem.training.tune",
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
