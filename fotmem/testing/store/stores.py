"""Makes the stores that the contract tests, and closes them."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from fotmem.errors import FotmemError, OptionError
from fotmem.plugin import create
from fotmem.plugin.specs import StoreCapabilities, StoreSpec
from fotmem.stores.store import MemoryStore
from fotmem.testing.store.callers_tensors import watch
from fotmem.testing.store.naive import draw

HEADS, DIM = 2, 16

StoreFactory = Callable[..., MemoryStore]
"""Makes an empty store; called with ``num_heads`` and ``head_dim`` (int), ``dtype`` and ``device``
(of torch) by keyword, and for stores that are persistent sometimes with ``directory`` (a Path)."""


def pair(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draw keys and values ``[HEADS, tokens, DIM]``."""
    keys = draw(HEADS, tokens, DIM, dtype=dtype)
    return keys, draw(HEADS, tokens, DIM, seed=1, dtype=dtype)


_Built = TypeVar("_Built")


def built_once(request: pytest.FixtureRequest, name: str, build: Callable[[], _Built]) -> _Built:
    """Keep the result of `build` in the class's dict `name`, once for each store of the class."""
    kind: Any = request.cls
    if name not in vars(kind):
        setattr(kind, name, {})
    parameters = getattr(request.node, "callspec", None)
    key = repr(parameters and parameters.params.get("make_store"))
    built: dict[str, _Built] = getattr(kind, name)
    if key not in built:
        built[key] = build()
    return built[key]


class Stores:
    """Makes stores by a plugin's factory; `close` closes those that are still open."""

    def __init__(self, make: StoreFactory, capabilities: StoreCapabilities) -> None:
        self.make = make
        self.capabilities = capabilities
        self.device = "cpu" if "cpu" in capabilities.devices else capabilities.devices[0]
        self._open: list[MemoryStore] = []

    def empty(
        self,
        *,
        num_heads: int = HEADS,
        head_dim: int = DIM,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
        directory: Path | None = None,
    ) -> MemoryStore:
        """Make an empty store, or open what lies in `directory`."""
        where: dict[str, Any] = {} if directory is None else {"directory": directory}
        store = self.make(
            num_heads=num_heads,
            head_dim=head_dim,
            dtype=dtype,
            device=torch.device(device or self.device),
            **where,
        )
        self._open.append(store)
        watch(store)
        return store

    def filled(
        self,
        keys: Tensor,
        values: Tensor,
        *,
        cuts: Sequence[int] = (),
        first_id: int = 0,
        **options: Any,
    ) -> MemoryStore:
        """Make a store and add ``[H, N, D]`` keys and values, cut in pieces at `cuts`."""
        heads, tokens, dim = keys.shape
        store = self.empty(num_heads=heads, head_dim=dim, **{"dtype": keys.dtype, **options})
        if first_id:
            store.start_at(first_id)
        for begin, end in itertools.pairwise([0, *cuts, tokens]):
            store.add(keys[:, begin:end], values[:, begin:end])
        return store

    def close(self, store: MemoryStore | None = None) -> None:
        """Close one store, or all that are open."""
        for each in [store] if store is not None else self._open[::-1]:
            self._open = [other for other in self._open if other is not each]
            each.close()

    def release(self, store: MemoryStore) -> None:
        """Drop the reference to a store, so that only its owner keeps it alive."""
        self._open = [other for other in self._open if other is not store]


def declared(make: StoreFactory) -> StoreSpec | None:
    """Find the spec that a factory gets from the registry; None if it gets none."""
    asked: list[StoreSpec] = []
    find = create.find_store

    def watch(name: str) -> StoreSpec:
        asked.append(find(name))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "find_store", watch)
        try:
            make(num_heads=1, head_dim=4).close()
        except FotmemError:
            if not asked:  # such as a store for CUDA only: its spec is known all the same
                raise
    return asked[0] if asked else None


def promised(make: StoreFactory, given: StoreCapabilities | None) -> StoreCapabilities:
    """Return what a store promises: in its spec, or else in `given` of the test class.

    Raises
    ------
    OptionError
        If neither promises anything, or the two differ.
    """
    spec = declared(make)
    found = given if spec is None else spec.capabilities
    if found is None:
        raise OptionError(
            "make_store must call fotmem.create_store, whose spec declares what it promises; "
            "for a store without a spec, set `capabilities = "
            "fotmem.plugin.StoreCapabilities(...)` in the test class"
        )
    if given not in (None, found):
        raise OptionError(f"capabilities must be those of the spec, {found}, got {given}")
    return found
