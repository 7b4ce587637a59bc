"""Attends with `clusters`, counts what it reads, and finds options that read so much."""

from typing import NamedTuple

from torch import Tensor

from fotmem.stores import MemoryStore

LARGEST, LEAST = 4.0, 0.03
"""Target errors that are tried."""
TRIES = 7
"""Options that are tried."""
FEWER = 0.98
"""A next budget reads so many of the keys that are allowed, so that few are tried."""


class Answer(NamedTuple):
    """What a store answers to queries ``[H, Q, D]``."""

    out: Tensor
    """Shape ``[H, Q, D]``."""
    read: float
    """Keys that a query reads, those that wait for clusters among them: the mean."""
    estimated: Tensor
    """Shape ``[H, Q]``: the errors that the store expects of itself."""


def answer(store: MemoryStore, queries: Tensor, scale: float) -> Answer:
    """Attend to all keys; ask the store how many of them it read."""
    out = store.attend(queries, top_k=None, scale=scale).out
    found = store.tail_estimate(queries, scale=scale)
    assert found is not None
    return Answer(out, float(found.share_read.mean()) * len(store), found.error)


def tune_budget(store: MemoryStore, queries: Tensor, scale: float, share: float) -> None:
    """Give `clusters` the largest budget, about, with which a query reads at most this share."""
    most, budget = share * len(store), share * len(store)
    for _ in range(TRIES):
        store.tune(budget=max(1, int(budget)), target_error=None)
        read = answer(store, queries, scale).read
        if read <= most:
            return
        budget *= FEWER * most / read


def tune_error(store: MemoryStore, queries: Tensor, scale: float, share: float) -> None:
    """Give it the least target error, about, with which queries read this share in the mean."""
    low, high = LEAST, LARGEST
    for _ in range(TRIES):
        middle = (low * high) ** 0.5
        store.tune(budget=None, target_error=middle)
        few = answer(store, queries, scale).read <= share * len(store)
        low, high = (low, middle) if few else (middle, high)
    store.tune(budget=None, target_error=high)
