"""Attends to some clusters exactly, and to all others as their summaries estimate."""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Bias
from fotmem_clusters.attending import Attended
from fotmem_clusters.choosing import Limits
from fotmem_clusters.compiled.choosing import choose_all
from fotmem_clusters.compiled.merging import merge_all
from fotmem_clusters.compiled.parts import in_parts
from fotmem_clusters.compiled.reading import (
    no_sums,
    origins_of,
    read_clusters,
    read_waiting,
)
from fotmem_clusters.compiled.rows import (
    clusters_in_memory,
    columns_of,
    copied_clusters,
    copied_waiting,
    waiting_in_memory,
)
from fotmem_clusters.compiled.scalars import compiled
from fotmem_clusters.compiled.shown import Array, shown
from fotmem_clusters.view import Viewer

WORKSPACE = 2**18
"""Entries that all queries of a part look at, about."""
NONE = np.empty(0, np.float32)
ENOUGH = 2**15
"""As many are worth a thread."""


def attend_to_clusters(
    viewer: Viewer,
    queries: Tensor,
    *,
    limits: Limits,
    scale: float,
    errors: bool = False,
    waiting: range = range(0),
    bias: Bias | None = None,
) -> Attended:
    """Attend as `fotmem_clusters.attending.attend_to_clusters` does, and to rows that wait.

    `bias` is of the rows that wait; that of clusters is the viewer's.
    """
    heads, asking, dim = queries.shape
    with np.errstate(over="ignore"):
        flat = queries.numpy().reshape(-1, dim) * np.float32(scale)
    owners, tree = _owners(heads, asking), viewer.tree
    seen, columns, limit = shown(viewer), columns_of(tree), (float(limits.error), limits.clusters)
    biases = NONE if viewer.biases is None else viewer.biases.numpy()
    later = NONE
    if bias is not None and waiting:
        later = (bias(torch.arange(waiting.start, waiting.stop)) * scale).numpy()

    def attend(some: slice) -> tuple[Array, ...]:
        asked = flat[some], owners[some], seen
        if columns is not None:
            span = waiting.start, waiting.stop
            return _attend_in_memory(*asked, *limit, *columns, biases, *span, later, errors)
        looked, pairs = choose_all(*asked, *limit)
        sums, origins = no_sums(len(asked[0]), dim), origins_of(*asked)
        for rows in copied_clusters(tree, seen, pairs.nodes, biases):
            read_clusters(asked[0], origins, looked, pairs, rows, sums)
        if waiting:
            read_waiting(*asked[:2], copied_waiting(tree, heads, waiting, later), sums)
        return merge_all(*asked, origins, looked, sums, errors)

    found = _attend_in_parts(attend, len(flat), len(flat) * viewer.most)
    out, lse, read, expected = (torch.from_numpy(each) for each in found)
    out, lse = out.view(queries.shape), lse.view(heads, asking)
    if not errors:
        return Attended(out, lse, None, None)
    return Attended(out, lse, expected.view(lse.shape), read.view(lse.shape))


@functools.lru_cache(maxsize=16)
def _owners(heads: int, asking: int) -> Array:
    """Return the head of each query."""
    return np.arange(heads).repeat(asking)


@compiled
def _attend_in_memory(
    queries, heads, shown, error, most, keys, values, biases, start, stop, later, errors
):
    """Attend with queries ``[n, D]`` of heads ``[n]``; return as `merge_all`."""
    looked, pairs = choose_all(queries, heads, shown, error, most)
    sums, origins = no_sums(*queries.shape), origins_of(queries, heads, shown)
    rows = clusters_in_memory(shown, pairs.nodes, keys, values, biases)
    read_clusters(queries, origins, looked, pairs, rows, sums)
    if stop > start:
        rows = waiting_in_memory(len(shown.members), start, stop, keys, values, later)
        read_waiting(queries, heads, rows, sums)
    return merge_all(queries, heads, shown, origins, looked, sums, errors)


def _attend_in_parts(
    attend: Callable[[slice], tuple[Array, ...]], count: int, entries: int
) -> Iterable[Array]:
    """Attend with parts of `count` queries that look at so many entries in all, in threads."""
    parts = max(entries // WORKSPACE, min(torch.get_num_threads(), entries // ENOUGH))
    found = in_parts(attend, count, parts)
    return found[0] if len(found) == 1 else map(np.concatenate, zip(*found, strict=True))
