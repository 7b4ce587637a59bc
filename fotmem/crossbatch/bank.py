"""Keeps earlier windows as negatives: many more than a batch has, at little cost."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class Bank:
    """The inputs of the memory layers for the last windows; keys are computed from them anew.

    Wang et al. 2020, "Cross-Batch Memory for Embedding Learning" (arXiv:1912.06798), keep
    embeddings, which drift slowly. Keys of attention must not be kept: a model in training soon
    learns to separate old keys from new ones by a shift of all new keys, and shifts them further
    with every step. Keys that are computed from kept inputs by the current weights, with gradients
    for these weights, differ from positives only in their content.

    Parameters
    ----------
    layers : iterable of int
        The memory layers.
    windows : int
        How many windows are kept; 0 keeps none.
    """

    def __init__(self, layers: Iterable[int], windows: int) -> None:
        self._windows: dict[int, deque[Tensor]] = {layer: deque(maxlen=windows) for layer in layers}

    def __len__(self) -> int:
        """Count the windows kept."""
        return len(next(iter(self._windows.values())))

    def add(self, layer: int, hidden_states: Tensor) -> None:
        """Keep a layer's input ``[n, hidden]`` for one window; a full bank drops the oldest."""
        self._windows[layer].append(hidden_states.detach())

    def hidden_states(self, layer: int, windows: int) -> Tensor | None:
        """Return a layer's input for the last windows, ``[N, hidden]``; None if there are none."""
        kept = self._windows[layer]
        chosen = list(kept)[max(0, len(kept) - windows) :]
        return torch.cat(chosen) if chosen else None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the kept inputs, as tensors by name."""
        return {
            f"{layer}.{place}": window.contiguous()
            for layer, windows in self._windows.items()
            for place, window in enumerate(windows)
        }

    def load_state_dict(
        self, state: Mapping[str, Tensor], device: torch.device | None = None
    ) -> None:
        """Restore the state of another bank of the same layers, on a device; None: on its own."""
        for layer, windows in self._windows.items():
            names = (f"{layer}.{place}" for place in itertools.count())
            windows.clear()
            kept = itertools.takewhile(state.__contains__, names)
            windows.extend(state[name].to(device=device) for name in kept)
