"""How many of the rows of an attack a store was given, and how many it forgot."""

from typing import NamedTuple

from fotmem.stores import MemoryStore
from tests.attack.target import FIRST


class State(NamedTuple):
    """Rows ever added, and how many of the oldest are forgotten."""

    rows: int = 0
    forgotten: int = 0

    @classmethod
    def of(cls, store: MemoryStore) -> "State":
        """Return the state of a store."""
        rows = max(0, store.next_id - FIRST)
        return cls(rows, rows - len(store))
