"""The contract of a store, as a pytest class to inherit."""

from collections.abc import Iterator
from typing import ClassVar

import pytest

from fotmem.plugin.specs import StoreCapabilities
from fotmem.testing.store.stores import StoreFactory, Stores, promised
from fotmem.testing.store.subjects.among import Among
from fotmem.testing.store.subjects.any_order import AnyOrder
from fotmem.testing.store.subjects.attending import Attending
from fotmem.testing.store.subjects.closing import Closing
from fotmem.testing.store.subjects.damage import Damage
from fotmem.testing.store.subjects.estimates import Estimates
from fotmem.testing.store.subjects.holding import Holding
from fotmem.testing.store.subjects.huge import Huge
from fotmem.testing.store.subjects.ids import Ids
from fotmem.testing.store.subjects.independence import Independence
from fotmem.testing.store.subjects.indexed import IndexedSearch
from fotmem.testing.store.subjects.inputs import Inputs
from fotmem.testing.store.subjects.interrupted import Interruptions
from fotmem.testing.store.subjects.large import Large
from fotmem.testing.store.subjects.larger import Larger
from fotmem.testing.store.subjects.limits import ExtremeSizes
from fotmem.testing.store.subjects.persistence import Persistence
from fotmem.testing.store.subjects.promises import Promises
from fotmem.testing.store.subjects.searching import Searching
from fotmem.testing.store.subjects.speed import Speed
from fotmem.testing.store.subjects.threads import Threads
from fotmem.testing.store.subjects.tuning import Tuning
from fotmem.testing.store.subjects.workspace import Workspace


class StoreContract(  # pytest begins with the last
    Larger,
    Speed,
    Promises,
    Estimates,
    Closing,
    Damage,
    Persistence,
    Interruptions,
    Tuning,
    IndexedSearch,
    Huge,
    Large,
    Holding,
    Workspace,
    Threads,
    AnyOrder,
    Independence,
    Among,
    Attending,
    Inputs,
    ExtremeSizes,
    Ids,
    Searching,
):
    """Tests of everything that a store promises, against naive computations in float64.

    Inherit it, and define how an empty store is made::

        class TestMyStore(StoreContract):
            @pytest.fixture
            def make_store(self) -> StoreFactory:
                return functools.partial(fotmem.create_store, "my-store")

    The factory is called with ``num_heads``, ``head_dim``, ``dtype`` and ``device`` by keyword;
    with ``directory``, too, where the store declares that it is persistent. What is expected of it
    depends on what it declares, see `StoreCapabilities`. An approximate store may lower
    `min_recall` and `min_mass`, nothing else.
    """

    capabilities: ClassVar[StoreCapabilities | None] = None
    """What the store promises; only for a store without a spec."""

    @pytest.fixture
    def make_store(self) -> StoreFactory:
        """Return the store's factory; every test class defines its own."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture make_store that returns how a store is made, "
            f"such as functools.partial(fotmem.create_store, 'my-store')"
        )

    @pytest.fixture
    def stores(self, make_store: StoreFactory) -> Iterator[Stores]:
        """Make stores, and close them after the test."""
        made = Stores(make_store, promised(make_store, self.capabilities))
        yield made
        made.close()

    @pytest.fixture
    def dense(self, stores: Stores) -> Stores:
        """Skip if the store only estimates dense attention."""
        if stores.capabilities.estimates_tail:
            pytest.skip("the store only estimates dense attention (estimates_tail)")
        return stores
