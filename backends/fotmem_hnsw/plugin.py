"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem_hnsw.options import HnswOptions


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `hnsw`."""
    yield StoreSpec(
        name="hnsw",
        factory="fotmem_hnsw.store:HnswStore",
        options=HnswOptions,
        capabilities=StoreCapabilities(exact=False, devices=("cpu", "cuda"), forgets=True),
        requires=("hnswlib",),
        install="pip install 'fotmem[hnsw]'",
        grid={"ef_search": (32, 64, 128, 256, 384, 512)},
    )
