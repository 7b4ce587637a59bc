"""A memory for LLaMA: interchangeable kNN stores behind one interface.

A Focused Transformer (Tworkowski et al. 2023, arXiv:2307.03170) lets a few attention layers look
past the context window. `attach` gives a transformers model such a memory; `create_store` makes
the stores it is built from; plugins add more of both.
"""

from typing import TYPE_CHECKING, Any

from fotmem.adapter import Adapter
from fotmem.attention import WORKSPACE, PartialAttention, dense_attention, merge, topk_attention
from fotmem.errors import (
    AttachError,
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
from fotmem.frame import Frame
from fotmem.hookspecs import hookimpl
from fotmem.hubs import Hubs
from fotmem.indexed import IndexedOptions, IndexedStore
from fotmem.kmeans import moved_centres, nearest_centres
from fotmem.parallel import over_heads
from fotmem.registry import available_adapters, available_stores, create_store
from fotmem.rows import Rows
from fotmem.rows_store import RowsStore
from fotmem.search import best_hits, exact_search
from fotmem.specs import AdapterSpec, StoreCapabilities, StoreOptions, StoreSpec
from fotmem.store import Bias, Hits, MemoryStore

if TYPE_CHECKING:
    from fotmem import crossbatch
    from fotmem.arrays import Ids, Vectors
    from fotmem.attachment import attach
    from fotmem.cache import MemoryCache
    from fotmem.explain import Attended
    from fotmem.graphs import Graph, GraphStore
    from fotmem.longllama import load_longllama
    from fotmem.memory import Memory
    from fotmem.models import load_recipe
    from fotmem.proposal import LayerScores
    from fotmem.retrieval import find_memory_layers
    from fotmem.selection.choice import Selection
    from fotmem.selection.selector import select
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

_LAZY = {  # most of these import transformers, some numpy
    "Attended": "fotmem.explain",
    "Graph": "fotmem.graphs",
    "GraphStore": "fotmem.graphs",
    "Ids": "fotmem.arrays",
    "Vectors": "fotmem.arrays",
    "Memory": "fotmem.memory",
    "MemoryCache": "fotmem.cache",
    "LayerScores": "fotmem.proposal",
    "Selection": "fotmem.selection.choice",
    "Trained": "fotmem.training.fit",
    "TrainingOptions": "fotmem.training.options",
    "attach": "fotmem.attachment",
    "crossbatch": "fotmem.crossbatch",
    "find_memory_layers": "fotmem.retrieval",
    "load_longllama": "fotmem.longllama",
    "load_recipe": "fotmem.models",
    "select": "fotmem.selection.selector",
    "train": "fotmem.training.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fotmem' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_LAZY[name])
    value = module if _LAZY[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
