"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem_faiss.options import FlatOptions, HnswOptions, IvfOptions, IvfpqOptions


def where_it_searches() -> str:
    """Say whether FAISS uses the GPU here, and if not, how to install the version that does."""
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
        ("faiss-flat", "flat:FlatStore", FlatOptions, {}),
        ("faiss-ivf", "ivf:IvfStore", IvfOptions, nprobe),
        ("faiss-ivfpq", "ivf:IvfpqStore", IvfpqOptions, nprobe),
        ("faiss-hnsw", "hnsw:HnswStore", HnswOptions, ef_search),
    ):
        yield StoreSpec(
            name=name,
            factory=f"fotmem_faiss.{factory}",
            options=options,
            capabilities=StoreCapabilities(
                exact=name == "faiss-flat", devices=("cpu", "cuda"), forgets=True
            ),
            requires=("faiss",),
            install="pip install 'fotmem[faiss]'",
            grid=grid,
            note=where_it_searches,
        )
