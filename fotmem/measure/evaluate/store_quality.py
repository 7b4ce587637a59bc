"""The figures of a store for the queries of a model in a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fotmem.measure.bench.figures import STEP, Figure, interval, query_figures, ratio, truth
from fotmem.measure.capture import KeyValues
from fotmem.memory.contents import looked_up
from fotmem.memory.decay import scale_and_bias
from fotmem.memory.recent import far_ids

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory
    from fotmem.stores.id_ranges import IdRanges
    from fotmem.stores.store import MemoryStore

POSITIONS = 32
"""Most positions of a call whose queries are evaluated: exact search is slow."""


class FigureLabel(NamedTuple):
    """The name and meaning of a figure."""

    name: str
    """In tables."""
    meaning: str
    """One sentence."""
    better: int
    """1: higher is better; -1: lower is better."""


FIGURES = {
    "recall": FigureLabel("recall", "share of the k best keys that are among the k keys found", 1),
    "attention_mass_recall": FigureLabel(
        "attention-mass recall",
        "softmax mass of the keys found, as a share of the softmax mass of the k best keys",
        1,
    ),
    "error": FigureLabel(
        "error", "relative error of the attention output against attention to all keys", -1
    ),
    "excess_error": FigureLabel(
        "excess error",
        "relative error of the attention output against attention to the k best keys",
        -1,
    ),
}
"""The fields of `StoreQuality`."""


@dataclass(frozen=True)
class StoreQuality:
    """Figures of a store in a task, over memory layers, heads and queries: see `FIGURES`."""

    recall: Figure
    attention_mass_recall: Figure
    error: Figure
    excess_error: Figure


class CallQuality(NamedTuple):
    """Figures of the stores in one call of the model: means over all queries."""

    recall: float
    found: float
    """Softmax mass of the keys found."""
    most: float
    """Softmax mass of the k best keys."""
    error: float
    excess_error: float


def call_quality(memory: Memory) -> CallQuality:
    """Compare the stores' answers to the last call of the model with the exact ones.

    The stores are searched once more. The exact answers use all remembered keys but the recent
    ones, which are not searched, with the decay and the temperature of the memory.
    """
    trace, top_k = memory.attached_model.last_trace, memory.top_k
    assert trace is not None
    assert top_k is not None
    layers = [
        _figures(memory, layer, traced.asked[0], top_k) for layer, traced in trace.layers.items()
    ]
    return CallQuality(*torch.stack(layers).mean(0).tolist())


def over_calls(calls: Sequence[CallQuality]) -> StoreQuality:
    """Combine calls; intervals are bootstrap percentiles over calls."""
    recall, found, most, error, excess = torch.tensor(calls, dtype=torch.float64).T
    return StoreQuality(
        recall=interval(np.mean, recall),
        attention_mass_recall=interval(ratio, found, most),
        error=interval(np.mean, error),
        excess_error=interval(np.mean, excess),
    )


def _figures(memory: Memory, layer: int, queries: Tensor, top_k: int) -> Tensor:
    """Return the figures of `CallQuality` for a layer and its queries ``[H * G, T, D]``."""
    store = memory.store(layer)
    _, _, scale = memory.attached_model.geometry(layer)
    some = torch.linspace(0, queries.shape[1] - 1, min(POSITIONS, queries.shape[1])).long()
    asked = queries[:, some].reshape(store.num_heads, -1, store.head_dim).to(store.device).float()
    scale, bias = scale_and_bias(store, layer, scale, memory.options)
    far = far_ids(store, memory.recent)
    scores = store.search(asked, top_k, bias=bias, among=far).scores
    out = store.attend(asked, top_k=top_k, scale=scale, bias=bias, among=far).out
    exact = truth(
        asked, _remembered(store, far), scale=scale, top_k=top_k, first_id=store.first_id, bias=bias
    )
    return torch.stack([each.mean() for each in query_figures(scores, out, exact)]).cpu()


def _remembered(store: MemoryStore, far: IdRanges | None) -> Iterator[KeyValues]:
    end = store.next_id if far is None else store.first_id + len(far)
    for start in range(store.first_id, end, STEP):
        ids = torch.arange(start, min(start + STEP, end), device=store.device)
        yield KeyValues(*looked_up(store, ids))
