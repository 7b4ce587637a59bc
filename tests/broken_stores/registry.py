"""Stores that are wrong on purpose, each with the test of the contract that must catch it."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fotmem.plugin import StoreCapabilities
from fotmem.stores import Hits, MemoryStore

EXACT = StoreCapabilities(exact=True)
APPROXIMATE = StoreCapabilities(exact=False)
PERSISTENT = StoreCapabilities(exact=True, persistent=True)


class Broken(NamedTuple):
    """A broken store, what it claims, and the test that must fail."""

    store: type[MemoryStore]
    test: str
    capabilities: StoreCapabilities
    told: str
    """What the message must say, a regular expression."""
    large: bool
    """Whether it is wrong only at sizes that must be asked for."""


BROKEN: list[Broken] = []
Kind = type[MemoryStore]


def caught_by(
    test: str, capabilities: StoreCapabilities = EXACT, *, told: str = "", large: bool = False
) -> Callable[[Kind], Kind]:
    def register(store: Kind) -> Kind:
        BROKEN.append(Broken(store, f"test_{test}", capabilities, told, large))
        return store

    return register


class OnPurposeError(RuntimeError):
    """What a store raises that is broken by raising."""


def sorted_hits(ids: Tensor, scores: Tensor) -> Hits:
    scores, order = scores.sort(dim=-1, descending=True)
    return Hits(ids.gather(-1, order), scores)
