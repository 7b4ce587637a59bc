"""The list of stores with a fault."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fotmem.plugin import StoreCapabilities
from fotmem.stores import Hits, MemoryStore

EXACT = StoreCapabilities(exact=True)
APPROXIMATE = StoreCapabilities(exact=False)
PERSISTENT = StoreCapabilities(exact=True, persistent=True)


HARMLESS = ("closing_twice", "nothing_to_attend_to")
"""Cheap tests of the contract that most faults have nothing to do with."""


class Broken(NamedTuple):
    """A broken store, and which tests of the contract must fail and pass."""

    store: type[MemoryStore]
    test: str
    """The test that must fail."""
    capabilities: StoreCapabilities
    """What the store declares."""
    message: str
    """A regular expression that the failure must match."""
    large: bool
    """Whether the fault shows only at the sizes of `StoreContract.large`."""
    passes: tuple[str, ...]
    """Tests that must pass: only what is wrong is caught."""


BROKEN: list[Broken] = []
Kind = type[MemoryStore]


def caught_by(
    test: str,
    capabilities: StoreCapabilities = EXACT,
    *,
    message: str = "",
    large: bool = False,
    passes: tuple[str, ...] = HARMLESS,
) -> Callable[[Kind], Kind]:
    """Add the decorated store to the list; names of tests stand without their ``test_``."""

    def register(store: Kind) -> Kind:
        names = tuple(f"test_{name}" for name in passes)
        BROKEN.append(Broken(store, f"test_{test}", capabilities, message, large, names))
        return store

    return register


class OnPurposeError(RuntimeError):
    """Raised by a store whose fault is that it raises."""


def sorted_hits(ids: Tensor, scores: Tensor) -> Hits:
    scores, order = scores.sort(dim=-1, descending=True)
    return Hits(ids.gather(-1, order), scores)
