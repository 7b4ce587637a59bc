"""A base for stores that keep keys and values themselves."""

import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from fotmem.attention import block_length
from fotmem.stores.brute_force import exact_search
from fotmem.stores.buffers import Place
from fotmem.stores.growing_rows import GrowingRows
from fotmem.stores.hits import Bias, Hits
from fotmem.stores.id_ranges import IdRanges
from fotmem.stores.some_rows import SEARCHED, are_long, compare, picked
from fotmem.stores.store import MemoryStore


class RowsStore(MemoryStore):
    """Base of a store that keeps keys and values itself; a subclass implements `search_rows`.

    With a bias, every query looks at every key; among some rows, at each of these. A copy shares
    the rows until either grows.

    Parameters
    ----------
    keys, values : {"ram", "mmap"}
        Where they are kept: in memory (or on the device), or in a temporary file.
    **layer
        As for `MemoryStore`.

    Attributes
    ----------
    stored_keys, stored_values : GrowingRows
        All keys and values, ``[H, N, D]``.
    """

    def __init__(self, *, keys: Place = "ram", values: Place = "ram", **layer: Any) -> None:
        super().__init__(**layer)
        self.stored_keys, self.stored_values = self._new_rows(keys), self._new_rows(values)

    @property
    def disk_bytes(self) -> int:
        """Bytes that are reserved on disk."""
        return self.stored_keys.disk_bytes + self.stored_values.disk_bytes

    @property
    def ram_bytes(self) -> int:
        """Bytes in RAM, without the keys and values that lie in a memory's directory."""
        mapped = self.stored_keys.mapped_bytes + self.stored_values.mapped_bytes
        return max(0, super().ram_bytes - mapped)

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        for rows in (self.stored_keys, self.stored_values):
            rows.reserve(keys.shape[1])  # whatever fails, fails here: nothing is added
        self.stored_values.add(values)
        self.stored_keys.add(keys)  # last: the value of a key that is found is there

    def search_rows_biased(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        if self.stored_keys.is_mapped:  # a view of all would be a copy
            rows = IdRanges([(self.forgotten_rows, len(self.stored_keys))])
            return self._compare_among(queries, top_k, rows, bias)
        first, keys = self.stored_keys.since(self.forgotten_rows)
        return exact_search(queries, keys, top_k, first_id=first, bias=bias)

    def search_rows_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        return self._compare_among(queries, top_k, rows, bias)

    def _compare_among(
        self, queries: Tensor, top_k: int, rows: IdRanges, bias: Bias | None
    ) -> Hits:
        if self.stored_keys.is_mapped:
            return super()._compare_among(queries, top_k, rows, bias)
        first, keys = self.stored_keys.since(self.forgotten_rows)
        if not are_long(rows, keys, SEARCHED):
            return super()._compare_among(queries, top_k, rows, bias)
        blocks = (keys[:, start - first : stop - first].to(self.device) for start, stop in rows)
        return compare(blocks, queries, top_k, rows=rows, bias=bias)

    def _blocks_among(self, rows: IdRanges) -> Iterator[tuple[Tensor, Tensor]]:
        if self.stored_keys.is_mapped:
            return super()._blocks_among(rows)
        return picked(self.live_blocks(), rows, self.forgotten_rows)

    def key_rows(self, rows: Tensor) -> Tensor:
        return self.stored_keys.take(rows)

    def value_rows(self, rows: Tensor) -> Tensor:
        return self.stored_values.take(rows)

    def live_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        length = block_length(self.num_heads, self.head_dim)
        end = self.added_rows  # the same for both, though another thread may add
        pairs = (
            rows.blocks(self.forgotten_rows, end, length)
            for rows in (self.stored_keys, self.stored_values)
        )
        for (_, keys), (_, values) in zip(*pairs, strict=True):
            yield keys, values

    def forget_rows(self, count: int) -> None:
        for rows in (self.stored_keys, self.stored_values):
            rows.forget(self.forgotten_rows + count)

    def undo_rows(self, added: int, forgotten: int, forgetting: int) -> int:
        both = self.stored_keys, self.stored_values
        for rows in both:
            rows.truncate(added)
        return forgetting if any(rows.first > forgotten for rows in both) else forgotten

    def copy_rows(self) -> Self:
        twin = copy.copy(self)
        twin.stored_keys, twin.stored_values = self.stored_keys.copy(), self.stored_values.copy()
        return twin

    def _new_rows(self, place: Place) -> GrowingRows:
        device = torch.device("cpu") if place == "mmap" else self.device
        return GrowingRows(
            self.num_heads, self.head_dim, dtype=self.dtype, device=device, place=place
        )
