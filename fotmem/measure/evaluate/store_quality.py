"""What stores find of that which a model asks them while it works on a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fotmem.measure.bench.figures import STEP, Figure, compare, interval, ratio, truth
from fotmem.measure.capture import KeyValues
from fotmem.memory.contents import looked_up
from fotmem.memory.decay import scale_and_bias

if TYPE_CHECKING:
    from fotmem.memory.memory import Memory
    from fotmem.stores.store import MemoryStore

POSITIONS = 32
"""Of a call, at most, whose queries are judged: looking at all keys is slow."""


class FigureLabel(NamedTuple):
    """What a figure is."""

    name: str
    """In tables."""
    meaning: str
    """One sentence."""
    better: int
    """1: more is better; -1: less."""


FIGURES = {
    "recall": FigureLabel("recall", "share of the k best keys that are among the k found", 1),
    "mass": FigureLabel(
        "mass", "softmax weight of the keys found, as a share of that of the k best", 1
    ),
    "error": FigureLabel("error", "of the attention output, relative to attention to all keys", -1),
    "topk_error": FigureLabel(
        "added", "error that the store adds: relative to attention to the k best keys", -1
    ),
}
"""Of `StoreQuality`."""


@dataclass(frozen=True)
class StoreQuality:
    """What a store finds in a task, see `FIGURES`: over memory layers, heads and queries."""

    recall: Figure
    mass: Figure
    error: Figure
    topk_error: Figure


class CallQuality(NamedTuple):
    """What the stores found of what one call of the model asked: means over all queries."""

    recall: float
    found: float
    """Softmax weight of the keys found."""
    most: float
    """Softmax weight of the k best keys."""
    error: float
    topk_error: float


def judge_call(memory: Memory) -> CallQuality:
    """Judge what the stores answer to the queries of the last call of the model.

    They are asked once more. What is true is found by looking at all remembered keys, weighed as
    the model does.
    """
    trace, top_k = memory.attached_model.last_trace, memory.top_k
    assert trace is not None
    assert top_k is not None
    layers = [
        _judge(memory, layer, queries[0], top_k) for layer, (queries, _) in trace.layers.items()
    ]
    return CallQuality(*torch.stack(layers).mean(0).tolist())


def over_calls(calls: Sequence[CallQuality]) -> StoreQuality:
    """Put calls together; intervals are bootstrap percentiles over calls."""
    recall, found, most, error, topk_error = torch.tensor(calls, dtype=torch.float64).T
    return StoreQuality(
        recall=interval(np.mean, recall),
        mass=interval(ratio, found, most),
        error=interval(np.mean, error),
        topk_error=interval(np.mean, topk_error),
    )


def _judge(memory: Memory, layer: int, queries: Tensor, top_k: int) -> Tensor:
    """Judge a layer's answers to queries ``[H * G, T, D]``; the figures of `CallQuality`."""
    store = memory.store(layer)
    _, _, scale = memory.attached_model.geometry(layer)
    some = torch.linspace(0, queries.shape[1] - 1, min(POSITIONS, queries.shape[1])).long()
    asked = queries[:, some].reshape(store.num_heads, -1, store.head_dim).to(store.device).float()
    scale, bias = scale_and_bias(store, scale, memory.options)
    scores = store.search(asked, top_k, bias=bias).scores
    out = store.attend(asked, top_k=top_k, scale=scale, bias=bias).out
    exact = truth(
        asked, _remembered(store), scale=scale, top_k=top_k, first_id=store.first_id, bias=bias
    )
    return torch.stack([each.mean() for each in compare(scores, out, exact)]).cpu()


def _remembered(store: MemoryStore) -> Iterator[KeyValues]:
    for start in range(store.first_id, store.next_id, STEP):
        ids = torch.arange(start, min(start + STEP, store.next_id), device=store.device)
        yield KeyValues(*looked_up(store, ids))
