"""Contracts: what a plugin must keep, as pytest classes to inherit.

They need pytest and hypothesis: ``pip install 'fotmem[testing]'``.
"""

from typing import TYPE_CHECKING, Any

from fotmem.testing import requirements as _requirements  # noqa: F401 - before what needs them

# isort: split
from fotmem.testing.store.contract import StoreContract
from fotmem.testing.store.stores import StoreFactory

if TYPE_CHECKING:
    from fotmem.testing.adapter.contract import AdapterContract

__all__ = ["AdapterContract", "StoreContract", "StoreFactory"]


def __getattr__(name: str) -> Any:
    if name != "AdapterContract":
        raise AttributeError(f"module 'fotmem.testing' has no attribute {name!r}")
    from fotmem.testing.adapter.contract import AdapterContract  # imports transformers

    return AdapterContract
