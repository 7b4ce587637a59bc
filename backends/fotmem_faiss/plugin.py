"""What this plugin offers."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import Field

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import IndexedOptions, MemoryStore, StoreOptions


class FlatOptions(StoreOptions):
    """Options of `faiss-flat`."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads that search; default: as many as torch uses."""


class IvfOptions(IndexedOptions):
    """Options of `faiss-ivf`."""

    nprobe: int = Field(default=32, ge=1, lt=2**31)
    """Lists that a query looks at: more find more, and take longer."""
    nlist: int | None = Field(default=None, ge=1, lt=2**31)
    """Lists of a head; default: ``2 * sqrt(N)``, growing with the memory."""


class IvfpqOptions(IvfOptions):
    """Options of `faiss-ivfpq`."""

    rerank: int = Field(default=8, ge=1, lt=2**31)
    """So many times `top_k` candidates are scored anew by their full keys."""


class HnswOptions(IndexedOptions):
    """Options of `faiss-hnsw`."""

    M: int = Field(default=16, ge=2, le=512)
    """Links of a key: more find more, and take more memory (``8 * M`` bytes a key)."""
    ef_construction: int = Field(default=100, ge=8, lt=2**31)
    """Candidates that are looked at for the links of a new key."""
    ef_search: int = Field(default=384, ge=1, lt=2**31)
    """Candidates that a search keeps: more find more, and take longer."""


def create_flat(**arguments: Any) -> MemoryStore:
    """Create an empty store; imports FAISS."""
    from fotmem_faiss.flat import FlatStore

    return _created(FlatStore, arguments)


def create_ivf(**arguments: Any) -> MemoryStore:
    """Create an empty store; imports FAISS."""
    from fotmem_faiss.ivf import IvfStore

    return _created(IvfStore, arguments)


def create_ivfpq(**arguments: Any) -> MemoryStore:
    """Create an empty store; imports FAISS."""
    from fotmem_faiss.ivf import IvfpqStore

    return _created(IvfpqStore, arguments)


def create_hnsw(**arguments: Any) -> MemoryStore:
    """Create an empty store; imports FAISS."""
    from fotmem_faiss.hnsw import HnswStore

    return _created(HnswStore, arguments)


def _created(store: Callable[..., MemoryStore], arguments: dict[str, Any]) -> MemoryStore:
    del arguments["directory"]  # refused by the registry: nothing here is persistent
    return store(**arguments)


def where_it_searches() -> str:
    """Tell whether FAISS uses the GPU here, and if not, what would let it."""
    import torch

    if not torch.cuda.is_available():
        return ""
    import faiss

    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        return "faiss-flat also searches on the GPU"
    return (
        "FAISS searches on the CPU only; for the GPU: "
        "pip uninstall faiss-cpu && pip install 'fotmem[faiss-gpu]'"
    )


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `faiss-flat`, `faiss-ivf`, `faiss-ivfpq` and `faiss-hnsw`."""
    nprobe = {"nprobe": (4, 8, 16, 32, 64, 128)}
    ef_search = {"ef_search": (32, 64, 128, 256, 384, 512)}
    for name, factory, options, grid in (
        ("faiss-flat", create_flat, FlatOptions, {}),
        ("faiss-ivf", create_ivf, IvfOptions, nprobe),
        ("faiss-ivfpq", create_ivfpq, IvfpqOptions, nprobe),
        ("faiss-hnsw", create_hnsw, HnswOptions, ef_search),
    ):
        yield StoreSpec(
            name=name,
            factory=factory,
            options=options,
            capabilities=StoreCapabilities(
                exact=name == "faiss-flat", devices=("cpu", "cuda"), forgets=True
            ),
            requires=("faiss",),
            install="pip install 'fotmem[faiss]'",
            grid=grid,
            note=where_it_searches,
        )
