"""What this plugin offers."""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import ByteSize, Field

from fotmem import MemoryStore, StoreCapabilities, StoreOptions, StoreSpec, hookimpl


class ZarrOptions(StoreOptions):
    """How much the store may hold in memory, and how far it looks."""

    ram: ByteSize = Field(default=ByteSize(256 * 2**20), validate_default=True)
    """Bytes, or a text such as ``"256MiB"``: what rows, index, cache and work may take."""
    nprobe: int = Field(default=32, ge=1)
    """Clusters of at most 128 keys that a query reads, per head; of more than 65,536 keys, more."""
    exact: bool = False
    """Scan all keys instead."""


def create_zarr(
    *,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    directory: Path | str | None,
    options: ZarrOptions,
) -> MemoryStore:
    """Open what `directory` holds, or begin there; None: a temporary folder."""
    from fotmem_zarr.store import ZarrStore

    return ZarrStore(
        num_heads=num_heads,
        head_dim=head_dim,
        dtype=dtype,
        device=device,
        directory=directory,
        ram=int(options.ram),
        nprobe=options.nprobe,
        exact=options.exact,
    )


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `zarr`."""
    yield StoreSpec(
        name="zarr",
        factory=create_zarr,
        options=ZarrOptions,
        capabilities=StoreCapabilities(exact=False, persistent=True, forgets=True),
    )
