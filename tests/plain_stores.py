"""Stores as another package might write them: short, and trusting the base class."""

from typing import Any

import torch
from torch import Tensor

from fotmem import Hits, MemoryStore


class PlainStore(MemoryStore):
    """The four inner methods and nothing else; counts how it is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        shape = (self.num_heads, 0, self.head_dim)
        self.all_keys = torch.zeros(shape, dtype=self.dtype)
        self.all_values = torch.zeros(shape, dtype=self.dtype)
        self.calls: list[str] = []
        self.found: list[int] = []  # elements of each search's result
        self.full = False

    def _add(self, keys: Tensor, values: Tensor) -> None:
        assert keys.shape[1] > 0
        if self.full:
            raise OSError("no space left")
        self.calls.append("_add")
        self.all_keys = torch.cat([self.all_keys, keys], 1)
        self.all_values = torch.cat([self.all_values, values], 1)

    def _search(self, queries: Tensor, top_k: int) -> Hits:
        assert queries.shape[1] > 0
        assert 1 <= top_k <= self.all_keys.shape[1]
        self.calls.append("_search")
        scores = queries.float() @ self.all_keys.float().transpose(1, 2)
        scores, ids = self._hide(scores).topk(top_k, dim=-1)
        self.found.append(ids.numel())
        return Hits(ids.where(scores > -torch.inf, -1), scores)

    def _hide(self, scores: Tensor) -> Tensor:
        return scores

    def _keys(self, ids: Tensor) -> Tensor:
        return self._take(self.all_keys, ids)

    def _values(self, ids: Tensor) -> Tensor:
        return self._take(self.all_values, ids)

    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        assert ids.numel()
        assert 0 <= int(ids.min()) <= int(ids.max()) < rows.shape[1]
        return rows[torch.arange(self.num_heads)[:, None, None], ids]

    def flush(self) -> None:
        self.calls.append("flush")
        super().flush()

    def close(self) -> None:
        self.calls.append("close")
        super().close()


class ForgettingStore(PlainStore):
    """Really forgets: a look-up of what it was told to drop would fail."""

    gone = 0

    def _forget(self, count: int) -> None:
        self.gone += count
        self.all_keys[:, : self.gone] = torch.nan
        self.all_values[:, : self.gone] = torch.nan

    def _hide(self, scores: Tensor) -> Tensor:
        return scores.nan_to_num(-torch.inf)

    def _take(self, rows: Tensor, ids: Tensor) -> Tensor:
        assert int(ids.min()) >= self.gone
        return super()._take(rows, ids)


class LossyStore(ForgettingStore):
    """Looks at every third key only, like an index that probes a few of its lists."""

    def _hide(self, scores: Tensor) -> Tensor:
        skipped = torch.arange(scores.shape[-1]) % 3 > 0
        return super()._hide(scores).masked_fill(skipped, -torch.inf)
