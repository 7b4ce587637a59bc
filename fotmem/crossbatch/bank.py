"""Keys and values of earlier windows: many more negatives, almost for free."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class Bank:
    """The last windows that were read while training, per memory layer, without gradient.

    Wang et al. 2020, "Cross-Batch Memory for Embedding Learning" (arXiv:1912.06798): embeddings
    drift so slowly that those of earlier steps are good negatives. What is looked at never changes
    in place, so that backward finds what forward saw.

    Parameters
    ----------
    layers : iterable of int
        The memory layers.
    windows : int
        How many windows are kept; 0 keeps none.
    """

    def __init__(self, layers: Iterable[int], windows: int) -> None:
        self._windows: dict[int, deque[tuple[Tensor, Tensor]]] = {
            layer: deque(maxlen=windows) for layer in layers
        }
        self._joined: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Count the windows kept."""
        return len(next(iter(self._windows.values())))

    def add(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep one window's keys and values ``[H, n, D]``; the oldest window goes if it is full."""
        self._windows[layer].append((keys.detach(), values.detach()))
        self._joined.pop(layer, None)

    def negatives(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return keys and values ``[H, N, D]`` of all windows kept; None if there are none."""
        windows = self._windows[layer]
        if windows and layer not in self._joined:
            keys, values = (torch.cat(tensors, 1) for tensors in zip(*windows, strict=True))
            self._joined[layer] = (keys, values)
        return self._joined.get(layer)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is kept, as tensors by name."""
        return {
            f"{layer}.{place}.{name}": tensor.contiguous()
            for layer, windows in self._windows.items()
            for place, window in enumerate(windows)
            for name, tensor in zip(("keys", "values"), window, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Keep what another bank of the same layers returned as its state."""
        self._joined.clear()
        for layer, windows in self._windows.items():
            windows.clear()
            place = 0
            while f"{layer}.{place}.keys" in state:
                windows.append((state[f"{layer}.{place}.keys"], state[f"{layer}.{place}.values"]))
                place += 1
