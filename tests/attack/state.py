"""How much of the rows of an attack a store was given, and how many it was told to forget."""

from typing import NamedTuple

from fotmem.stores import MemoryStore
from tests.attack.target import FIRST


class State(NamedTuple):
    """As many rows as were ever added, of which the oldest are forgotten."""

    rows: int = 0
    forgotten: int = 0

    @classmethod
    def of(cls, store: MemoryStore) -> "State":
        """Tell the state of a store."""
        rows = max(0, store.next_id - FIRST)
        return cls(rows, rows - len(store))
