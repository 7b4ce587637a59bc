"""What this plugin offers."""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import Field

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import IndexedOptions, MemoryStore


class HnswOptions(IndexedOptions):
    """Options of the `hnsw` store (Malkov and Yashunin 2018, arXiv:1603.09320)."""

    M: int = Field(default=16, ge=2, le=512)
    """Links of a key: more find more, and take more memory (``8 * M`` bytes a key)."""
    ef_construction: int = Field(default=100, ge=8, lt=2**31)
    """Candidates that are looked at for the links of a new key."""
    ef_search: int = Field(default=384, ge=1, lt=2**31)
    """Candidates that a search keeps: more find more, and take longer."""


def create_hnsw(
    *,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    directory: Path | None,
    options: HnswOptions,
) -> MemoryStore:
    """Create an empty store; imports hnswlib."""
    from fotmem_hnsw.store import HnswStore

    return HnswStore(
        num_heads=num_heads, head_dim=head_dim, dtype=dtype, device=device, options=options
    )


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `hnsw`."""
    yield StoreSpec(
        name="hnsw",
        factory=create_hnsw,
        options=HnswOptions,
        capabilities=StoreCapabilities(exact=False, devices=("cpu", "cuda"), forgets=True),
        requires=("hnswlib",),
        install="pip install 'fotmem[hnsw]'",
        grid={"ef_search": (32, 64, 128, 256, 384, 512)},
    )
