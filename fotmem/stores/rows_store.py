"""A base for stores that keep keys and values themselves."""

import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from fotmem.attention import WORKSPACE
from fotmem.stores.buffers import Place
from fotmem.stores.exact_search import exact_search
from fotmem.stores.growing_rows import Rows
from fotmem.stores.store import Bias, Hits, MemoryStore


class RowsStore(MemoryStore):
    """Base of a store that keeps keys and values in `Rows`; a subclass implements `_search`.

    With a bias, every query looks at every key. A copy shares the rows until either grows.

    Parameters
    ----------
    keys, values : {"ram", "mmap"}
        Where they are kept: in memory (or on the device), or in a temporary file.
    **layer
        As for `MemoryStore`.
    """

    def __init__(self, *, keys: Place = "ram", values: Place = "ram", **layer: Any) -> None:
        super().__init__(**layer)
        self._key_rows, self._value_rows = self._new_rows(keys), self._new_rows(values)

    @property
    def disk_bytes(self) -> int:
        """Bytes that are reserved on disk."""
        return self._key_rows.disk_bytes + self._value_rows.disk_bytes

    def _add(self, keys: Tensor, values: Tensor) -> None:
        for rows in (self._key_rows, self._value_rows):
            rows.reserve(keys.shape[1])  # whatever fails, fails here: nothing is added
        self._value_rows.add(values)
        self._key_rows.add(keys)  # last: who finds a key finds its value

    def _search_biased(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        first, keys = self._key_rows.since(self._forgotten)
        return exact_search(queries, keys, top_k, first_id=first, bias=bias)

    def _keys(self, ids: Tensor) -> Tensor:
        return self._key_rows.take(ids)

    def _values(self, ids: Tensor) -> Tensor:
        return self._value_rows.take(ids)

    def _stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        length = max(1, WORKSPACE // (self.num_heads * self.head_dim))
        end = self._added  # the same for both, though another thread may add
        pairs = (
            rows.blocks(self._forgotten, end, length) for rows in (self._key_rows, self._value_rows)
        )
        for (_, keys), (_, values) in zip(*pairs, strict=True):
            yield keys, values

    def _forget(self, count: int) -> None:
        for rows in (self._key_rows, self._value_rows):
            rows.forget(self._forgotten + count)

    def _take_back(self, added: int, forgotten: int, forgetting: int) -> int:
        both = self._key_rows, self._value_rows
        for rows in both:
            rows.truncate(added)
        return forgetting if any(rows.first > forgotten for rows in both) else forgotten

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin._key_rows, twin._value_rows = self._key_rows.copy(), self._value_rows.copy()
        return twin

    def _new_rows(self, place: Place) -> Rows:
        device = torch.device("cpu") if place == "mmap" else self.device
        return Rows(self.num_heads, self.head_dim, dtype=self.dtype, device=device, place=place)
