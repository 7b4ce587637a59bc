"""What this plugin offers."""

from collections.abc import Iterable

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem_clusters.options import ClustersOptions


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `clusters`."""
    yield StoreSpec(
        name="clusters",
        factory="fotmem_clusters.store:ClustersStore",
        options=ClustersOptions,
        capabilities=StoreCapabilities(
            exact=False, devices=("cpu", "cuda"), forgets=True, estimates_tail=True
        ),
        grid={"target_error": (0.4, 0.2, 0.1, 0.05), "budget": (4096, 32_768)},
    )
