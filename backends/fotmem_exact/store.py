"""Exact search and attention over keys and values in memory."""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from fotmem import WORKSPACE, Bias, Hits, MemoryStore, PartialAttention, dense_attention

KEYS_PER_BLOCK = 2**14
SMALL = 2**16
"""Scores of which the best are found sooner by `torch.topk` alone."""


class _Rows(NamedTuple):
    """The remembered rows: replaced as a whole, so that searching threads see one state."""

    keys: Tensor  # [H, N, D], the filled part of a larger tensor
    values: Tensor
    first: int  # inner id of row 0


class ExactStore(MemoryStore):
    """Keys and values in tensors that double when full, on CPU or CUDA.

    `search` and `attend` are blocked: each of their temporaries holds at most
    ``max(fotmem.WORKSPACE, H * 8 * top_k * D)`` elements (normally 16 MiB in float32) or twice
    those of the result, and at most four are alive at a time, whatever ``Q`` and ``N``. Scores are
    computed in float32 from the keys as stored. A copy shares the tensors until one of the two
    grows.
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
        size = rows.keys.shape[1]
        top_k = min(top_k, size)
        columns = min(size, max(KEYS_PER_BLOCK, 8 * top_k))
        per_block = max(1, WORKSPACE // (self.num_heads * columns))
        if queries.shape[1] <= per_block:
            return self._best(queries, rows, top_k, bias)
        parts = [self._best(block, rows, top_k, bias) for block in queries.split(per_block, dim=1)]
        return Hits(
            torch.cat([part.ids for part in parts], 1),
            torch.cat([part.scores for part in parts], 1),
        )

    def _best(self, queries: Tensor, rows: _Rows, top_k: int, bias: Bias | None) -> Hits:
        """Search block after block of keys, keeping the best so far."""
        queries = queries.float()
        converted = 0 if self.dtype == torch.float32 else self.head_dim
        per_key = max(queries.shape[1], converted)
        length = max(1, WORKSPACE // (self.num_heads * per_key), 8 * top_k)
        found: Hits | None = None
        for start in range(0, rows.keys.shape[1], length):
            keys = rows.keys[:, start : start + length].float()
            first = rows.first + start
            scores = queries @ keys.transpose(1, 2)  # [H, Q, n]
            if bias is not None:
                scores += bias(torch.arange(first, first + keys.shape[1], device=keys.device))
            scores, ids = _topk(scores, top_k)
            if first:
                ids += first
            if found is not None:
                ids, scores = torch.cat([found.ids, ids], -1), torch.cat([found.scores, scores], -1)
                scores, order = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
                ids = ids.gather(-1, order)
            found = Hits(ids, scores)
        assert found is not None
        return found

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


def _topk(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Do what `torch.topk` does, several times faster on long rows.

    The best k scores lie in the k groups with the best maxima, and maxima are cheap.
    """
    length = scores.shape[-1]
    top_k = min(top_k, length)
    group = math.isqrt(length // top_k)  # balances the two selections
    if group < 2 or scores.numel() <= SMALL:
        return scores.topk(top_k, dim=-1)
    groups = length // group
    maxima = scores[..., : group * groups].unflatten(-1, (group, groups)).amax(-2)
    best = maxima.topk(top_k, dim=-1, sorted=False).indices
    ids = (best[..., None] + groups * torch.arange(group, device=best.device)).flatten(-2)
    rest = torch.arange(group * groups, length, device=best.device).expand(*ids.shape[:-1], -1)
    ids = torch.cat([ids, rest], -1)
    scores, order = scores.gather(-1, ids).topk(top_k, dim=-1)
    return scores, ids.gather(-1, order)


def _take(rows: Tensor, ids: Tensor) -> Tensor:
    heads = torch.arange(rows.shape[0], device=ids.device)[:, None, None]
    return rows[heads, ids]
