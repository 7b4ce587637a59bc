"""Attends with `clusters`, counts what it reads, and finds options that read so much."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor

from fotmem.stores import MemoryStore
from fotmem_clusters.attending import attend_to_clusters
from fotmem_clusters.reading import Reader

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
    """Keys of clusters that a query reads: the mean."""
    estimated: Tensor
    """Shape ``[H, Q]``: the errors that the store expects of itself."""


class _Watched:
    """What was read and estimated."""

    keys = 0
    errors: list[Tensor]


def answer(store: MemoryStore, queries: Tensor, scale: float) -> Answer:
    """Attend to all keys; those that are in no cluster yet are not counted."""
    with _watched() as seen:
        out = store.attend(queries, top_k=None, scale=scale).out
    [errors] = seen.errors
    return Answer(out, seen.keys / queries[..., 0].numel(), errors)


@contextmanager
def _watched() -> Iterator[_Watched]:
    """Watch how the store reads."""
    seen, read = _Watched(), Reader.attend
    seen.errors = []

    def counted(reader: Reader, asking: Tensor, nodes: Tensor) -> Any:
        _, held = reader._tree.clusters.of(nodes)
        seen.keys += int((held >= 0).sum())
        return read(reader, asking, nodes)

    def kept(*given: Any, **options: Any) -> Any:
        found = attend_to_clusters(*given, **options)
        seen.errors.append(found.error)
        return found

    with (
        mock.patch.object(Reader, "attend", counted),
        mock.patch("fotmem_clusters.store.attend_to_clusters", kept),
    ):
        yield seen


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
