"""Keeps the windows of each document that come before its previous one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from fotmem.errors import ShapeError


class EarlierWindows:
    """The inputs of the memory layers for the earlier windows of all documents.

    Parameters
    ----------
    layers : iterable of int
        The memory layers.

    Attributes
    ----------
    hidden_states : dict of int to Tensor
        Per layer ``[P, T, hidden]``, document after document, oldest window first; empty if there
        are none.
    in_reading : bool
        Whether they are being read.
    """

    def __init__(self, layers: Iterable[int]) -> None:
        self._last = max(layers)
        self._counts: list[int] = []
        self._length = 0
        self.hidden_states: dict[int, Tensor] = {}
        self.in_reading = False

    @contextmanager
    def reading(self, windows: Sequence[Tensor]) -> Iterator[Tensor]:
        """Forget all windows; give the ids of new ones ``[P, T]``, whose inputs are then kept."""
        input_ids = torch.cat([*windows]) if windows else torch.zeros(0, 0, dtype=torch.long)
        self._counts, self._length = [*map(len, windows)], input_ids.shape[1]
        self.hidden_states, self.in_reading = {}, True
        try:
            yield input_ids
        except _LastLayer:
            pass
        except BaseException:
            self.hidden_states = {}
            raise
        finally:
            self.in_reading = False

    def keep(self, layer: int, hidden_states: Tensor) -> None:
        """Keep the input of a layer; that of the last one ends the reading."""
        self.hidden_states[layer] = hidden_states
        if layer == self._last:
            raise _LastLayer

    def check(self, rows: int, length: int) -> None:
        """Raise `ShapeError` unless earlier windows fit these documents, or there are none."""
        if self.hidden_states and (len(self._counts), self._length) != (rows, length):
            raise ShapeError(
                "earlier windows",
                expected=f"[P, {length}] for each of the call's {rows} documents",
                actual=(len(self._counts), sum(self._counts), self._length),
            )

    def added_to(self, contexts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return which windows each row attends to: those given, and its own earlier ones."""
        if not self.hidden_states:
            return [[*some] for some in contexts]
        ends = [*accumulate(self._counts, initial=len(contexts))]
        return [[*some, *range(*ends[row : row + 2])] for row, some in enumerate(contexts)]

    def ages(self, ages: Tensor) -> Tensor:
        """Append the ages of the earlier windows to those of the previous ones ``[B]``."""
        if not self.hidden_states:
            return ages
        since = [
            ages[row] + torch.arange(count, 0, -1).to(ages)
            for row, count in enumerate(self._counts)
        ]
        return torch.cat([ages, *since])

    def without_first(self, mask: Tensor) -> Tensor:
        """Hide first tokens in a padding mask ``[B, T]``; return that of all windows' others."""
        shown = mask & (mask.cumsum(1) > 1)
        return torch.cat([shown, shown.new_ones(sum(self._counts), mask.shape[1])])[:, 1:]


class _LastLayer(Exception):  # noqa: N818 - no error
    """The last memory layer has got its input; what comes after it is not needed."""
