"""Exact search and attention over keys and values in memory."""

import copy
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from fotmem import (
    WORKSPACE,
    Bias,
    Hits,
    MemoryStore,
    PartialAttention,
    dense_attention,
    exact_search,
)


class _Rows(NamedTuple):
    """The remembered rows: replaced as a whole, so that searching threads see one state."""

    keys: Tensor  # [H, N, D], the filled part of a larger tensor
    values: Tensor
    first: int  # inner id of row 0


class ExactStore(MemoryStore):
    """Keys and values in tensors that double when full, on CPU or CUDA.

    `search` and `attend` work in blocks (`fotmem.exact_search`, `fotmem.dense_attention`), so that
    their temporaries stay small. A copy shares the tensors until one of the two grows.
    """

    _capacity: tuple[Tensor, Tensor]  # keys and values [H, capacity, D]
    _filled: int  # rows of the capacity in use, forgotten ones included
    _rows: _Rows

    def _add(self, keys: Tensor, values: Tensor) -> None:
        if self._added == 0:
            self._move(keys[:, :0], values[:, :0], first=0, capacity=keys.shape[1])
        rows = self._rows
        if self._filled + keys.shape[1] > self._capacity[0].shape[1]:
            self._move(*rows, capacity=2 * (rows.keys.shape[1] + keys.shape[1]))
        begin, end = self._filled - self._rows.keys.shape[1], self._filled + keys.shape[1]
        whole_keys, whole_values = self._capacity
        whole_keys[:, self._filled : end] = keys
        whole_values[:, self._filled : end] = values
        self._filled = end
        self._rows = _Rows(whole_keys[:, begin:end], whole_values[:, begin:end], rows.first)

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        return self._search_biased(queries, top_k, None)

    def _search_biased(self, queries: Tensor, top_k: int, bias: Bias | None) -> Hits:
        rows = self._rows
        return exact_search(queries, rows.keys, top_k, first_id=rows.first, bias=bias)

    def _attend(self, queries: Tensor, top_k: int | None, scale: float) -> PartialAttention:
        if top_k is not None and top_k < len(self):
            return super()._attend(queries, top_k, scale)
        rows = self._rows
        out, lse = dense_attention(queries[None], rows.keys[None], rows.values[None], scale=scale)
        return PartialAttention(out[0], lse[0])

    def _stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self._rows
        length = max(1, WORKSPACE // (self.num_heads * self.head_dim))
        yield from zip(rows.keys.split(length, 1), rows.values.split(length, 1), strict=True)

    def _keys(self, ids: Tensor) -> Tensor:
        return _take(self._rows.keys, ids - self._rows.first)

    def _values(self, ids: Tensor) -> Tensor:
        return _take(self._rows.values, ids - self._rows.first)

    def _forget(self, count: int) -> None:
        if count == 0:
            return
        keys, values, first = self._rows
        self._rows = _Rows(keys[:, count:], values[:, count:], first + count)
        if self._rows.keys.shape[1] < self._capacity[0].shape[1] // 4:
            self._move(*self._rows, capacity=2 * self._rows.keys.shape[1])

    def _copy(self) -> Self:
        twin = copy.copy(self)
        if self._added:
            # No room to grow: the next add of the twin moves it into tensors of its own.
            twin._capacity = (self._rows.keys, self._rows.values)
            twin._filled = self._rows.keys.shape[1]
        return twin

    def _move(self, keys: Tensor, values: Tensor, first: int, *, capacity: int) -> None:
        """Move what is remembered into new tensors of `capacity` rows."""
        size = keys.shape[1]
        shape = (self.num_heads, capacity, self.head_dim)
        whole = tuple(torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        for tensor, old in zip(whole, (keys, values), strict=True):
            tensor[:, :size] = old
        self._capacity = (whole[0], whole[1])
        self._filled = size
        self._rows = _Rows(whole[0][:, :size], whole[1][:, :size], first)


def _take(rows: Tensor, ids: Tensor) -> Tensor:
    heads = torch.arange(rows.shape[0], device=ids.device)[:, None, None]
    return rows[heads, ids]
