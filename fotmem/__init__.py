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
    from fotmem.attention import WORKSPACE, PartialAttention, dense_attention, merge, topk_attention
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
    from fotmem.measure.retrieval_heads import find_memory_layers
    from fotmem.measure.select.choice import Selection
    from fotmem.measure.select.selector import select
    from fotmem.memory.attachment import attach
    from fotmem.memory.cache import MemoryCache
    from fotmem.memory.explain import AttendedToken
    from fotmem.memory.longllama import load_longllama
    from fotmem.memory.memory import Memory
    from fotmem.models.load import load_recipe
    from fotmem.models.memory_layers import LayerScores
    from fotmem.plugin.hookspecs import hookimpl
    from fotmem.plugin.registry import available_adapters, available_stores, create_store
    from fotmem.plugin.specs import AdapterSpec, StoreCapabilities, StoreOptions, StoreSpec
    from fotmem.stores.arrays import Ids, Vectors
    from fotmem.stores.centring import Frame
    from fotmem.stores.exact_search import best_hits, exact_search
    from fotmem.stores.graph_store import Graph, GraphStore
    from fotmem.stores.growing_rows import Rows
    from fotmem.stores.hub_keys import Hubs
    from fotmem.stores.indexed_store import IndexedOptions, IndexedStore
    from fotmem.stores.kmeans import moved_centres, nearest_centres
    from fotmem.stores.parallel import over_heads
    from fotmem.stores.rows_store import RowsStore
    from fotmem.stores.store import Bias, Hits, MemoryStore
    from fotmem.training.fit import Trained
    from fotmem.training.options import TrainingOptions
    from fotmem.training.tune import train

__version__ = "0.1.0"

__all__ = [
    "WORKSPACE",
    "Adapter",
    "AdapterSpec",
    "AttachError",
    "AttendedToken",
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
    "AdapterSpec": "fotmem.plugin.specs",
    "AttachError": "fotmem.errors",
    "AttendedToken": "fotmem.memory.explain",
    "Bias": "fotmem.stores.store",
    "BusyError": "fotmem.errors",
    "CheckpointError": "fotmem.errors",
    "DtypeError": "fotmem.errors",
    "FotmemError": "fotmem.errors",
    "Frame": "fotmem.stores.centring",
    "Graph": "fotmem.stores.graph_store",
    "GraphStore": "fotmem.stores.graph_store",
    "Hits": "fotmem.stores.store",
    "Hubs": "fotmem.stores.hub_keys",
    "IdError": "fotmem.errors",
    "Ids": "fotmem.stores.arrays",
    "IndexedOptions": "fotmem.stores.indexed_store",
    "IndexedStore": "fotmem.stores.indexed_store",
    "InputError": "fotmem.errors",
    "LayerError": "fotmem.errors",
    "LayerScores": "fotmem.models.memory_layers",
    "Memory": "fotmem.memory.memory",
    "MemoryCache": "fotmem.memory.cache",
    "MemoryStore": "fotmem.stores.store",
    "MissingPackageError": "fotmem.errors",
    "ModelError": "fotmem.errors",
    "NonFiniteError": "fotmem.errors",
    "OptionError": "fotmem.errors",
    "PartialAttention": "fotmem.attention",
    "Rows": "fotmem.stores.growing_rows",
    "RowsStore": "fotmem.stores.rows_store",
    "Selection": "fotmem.measure.select.choice",
    "ShapeError": "fotmem.errors",
    "StorageError": "fotmem.errors",
    "StoreCapabilities": "fotmem.plugin.specs",
    "StoreOptions": "fotmem.plugin.specs",
    "StoreSpec": "fotmem.plugin.specs",
    "Trained": "fotmem.training.fit",
    "TrainingOptions": "fotmem.training.options",
    "UnknownStoreError": "fotmem.errors",
    "UnsupportedError": "fotmem.errors",
    "Vectors": "fotmem.stores.arrays",
    "WORKSPACE": "fotmem.attention",
    "attach": "fotmem.memory.attachment",
    "available_adapters": "fotmem.plugin.registry",
    "available_stores": "fotmem.plugin.registry",
    "best_hits": "fotmem.stores.exact_search",
    "create_store": "fotmem.plugin.registry",
    "crossbatch": "fotmem.crossbatch",
    "dense_attention": "fotmem.attention",
    "exact_search": "fotmem.stores.exact_search",
    "find_memory_layers": "fotmem.measure.retrieval_heads",
    "hookimpl": "fotmem.plugin.hookspecs",
    "load_longllama": "fotmem.memory.longllama",
    "load_recipe": "fotmem.models.load",
    "merge": "fotmem.attention",
    "moved_centres": "fotmem.stores.kmeans",
    "nearest_centres": "fotmem.stores.kmeans",
    "over_heads": "fotmem.stores.parallel",
    "select": "fotmem.measure.select.selector",
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
