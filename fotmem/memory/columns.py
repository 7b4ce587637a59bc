"""Which columns of the input the local context holds, and which of them are tokens."""

from __future__ import annotations

import torch
from torch import Tensor


class LocalColumns:
    """The columns of a rectangular cache in which each batch row has tokens of its own.

    Attributes
    ----------
    real : Tensor
        Shape ``[B, n]``, bool on CPU: which local columns are tokens of a row, not padding.
    """

    def __init__(self) -> None:
        self.real = torch.zeros(0, 0, dtype=torch.bool)
        self._places = torch.zeros(0, 0, dtype=torch.long)  # where each stood in the input

    @property
    def rows(self) -> int:
        """Count the batch rows; 0 before the first call."""
        return self.real.shape[0]

    def lengths(self, rows: int) -> list[int]:
        """Count the local tokens of each of `rows` batch rows."""
        counts: list[int] = self.real.sum(1).tolist()
        return counts or [0] * rows

    def extend(self, columns: Tensor, seen: int) -> None:
        """Append columns ``[B, t]`` of an input that follows on `seen` columns; -1 is padding."""
        places, real = (columns + seen).clamp(min=0), columns >= 0
        if self.rows:
            places, real = torch.cat([self._places, places], 1), torch.cat([self.real, real], 1)
        self._places, self.real = places, real

    def still_real(self, past: Tensor) -> Tensor:
        """Return `real` without what ``past [B, seen]`` calls padding by now."""
        return self.real & past.gather(1, self._places)

    def drop(self, rows: list[int]) -> int:
        """Drop the tokens of these rows; return how many columns no row uses any more."""
        kept = self.real.clone()
        kept[rows] = False
        used = kept.any(0).int()
        unused = int(used.argmax()) if used.any() else kept.shape[1]
        self.real, self._places = kept[:, unused:], self._places[:, unused:]
        return unused

    def select(self, rows: Tensor) -> None:
        """Let batch row ``i`` become what batch row ``rows[i]`` was."""
        self.real, self._places = self.real[rows], self._places[rows]
