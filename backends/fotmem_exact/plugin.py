"""What this plugin offers."""

from collections.abc import Iterable
from pathlib import Path

import torch

from fotmem.plugin import StoreCapabilities, StoreSpec, hookimpl
from fotmem.stores import MemoryStore, StoreOptions


class ExactOptions(StoreOptions):
    """The exact store has no options."""


def create_exact(
    *,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    directory: Path | None,
    options: ExactOptions,
) -> MemoryStore:
    """Create an empty exact store; `directory` is refused by the registry."""
    from fotmem_exact.store import ExactStore

    return ExactStore(num_heads=num_heads, head_dim=head_dim, dtype=dtype, device=device)


@hookimpl
def fotmem_stores() -> Iterable[StoreSpec]:
    """Declare `exact`."""
    yield StoreSpec(
        name="exact",
        factory=create_exact,
        options=ExactOptions,
        capabilities=StoreCapabilities(
            exact=True, persistent=False, devices=("cpu", "cuda"), forgets=True
        ),
    )
