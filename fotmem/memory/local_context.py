"""The local keys and values of one layer, and where they go when the local context overflows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from fotmem.memory.attached import AttachedModel
from fotmem.stores.store import MemoryStore


class LocalLayer(DynamicLayer):
    """The local keys and values of a layer; a layer without memory drops what overflows."""

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def drop(self, columns: int) -> None:
        """Drop the first columns of the local context."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[:, :, columns:], self.values[:, :, columns:]

    def select(self, rows: Tensor) -> None:
        """Let batch row ``i`` become what batch row ``rows[i]`` was."""
        assert self.keys is not None
        assert self.values is not None
        rows = rows.to(self.keys.device)
        self.keys, self.values = self.keys[rows], self.values[rows]


class MemoryLayer(LocalLayer):
    """The local keys and values of a memory layer, and one overflow store per batch row.

    Beside the keys as attention uses them it keeps, per chunk, the keys as a store takes them
    (before rotary embedding): these move to the store when the local context overflows.
    """

    def __init__(self, attached: AttachedModel, layer: int) -> None:
        super().__init__()
        self._attached = attached
        self._layer = layer
        self._unrotated: list[Tensor] = []  # [B, H, t, D] per chunk
        self.queries: Tensor | None = None  # [B, H * G, T, D] of a window that is read
        self.overflow: list[MemoryStore] = []  # one per batch row; rows of a beam may share one

    def remember(self, key: Tensor) -> None:
        """Keep keys ``[B, H, t, D]`` as a store takes them, until they overflow."""
        self._unrotated.append(key.detach())

    def window(self) -> tuple[Tensor, Tensor]:
        """Return keys as a store takes them, and values: ``[B, H, n, D]`` each."""
        keys = torch.cat(self._unrotated, 2) if len(self._unrotated) > 1 else self._unrotated[0]
        self._unrotated = [keys]
        assert self.values is not None
        return keys, self.values.detach()

    def overflow_length(self, row: int) -> int:
        """Count the tokens of a batch row that have left its local context."""
        return len(self.overflow[row]) if self.overflow else 0

    def move(self, rows: Sequence[int], columns: Tensor) -> None:
        """Move the local tokens of these rows, where ``columns [B, n]`` is True, to overflow."""
        keys, values = self.window()
        self.overflow = self.overflow or [self._attached.new_store(self._layer) for _ in keys]
        for row in rows:
            chosen = columns[row].to(keys.device)
            store = self.overflow[row]
            if any(store is other for i, other in enumerate(self.overflow) if i != row):
                store = self.overflow[row] = store.copy()
            store.add(keys[row][:, chosen], values[row][:, chosen])

    def drop(self, columns: int) -> None:
        """Drop the first columns of the local context."""
        keys, _ = self.window()
        self._unrotated = [keys[:, :, columns:]]
        super().drop(columns)

    def select(self, rows: Tensor) -> None:
        """Let batch row ``i`` become what batch row ``rows[i]`` was, its overflow included."""
        keys, _ = self.window()
        self._unrotated = [keys[rows.to(keys.device)]]
        super().select(rows)
        if self.overflow:
            self.overflow = [self.overflow[row] for row in rows.tolist()]
