"""Attends to some clusters exactly, and to all others as their summaries estimate."""

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import Bias, over_heads
from fotmem_clusters.attending import Attended
from fotmem_clusters.choosing import Limits
from fotmem_clusters.compiled.choosing import Looked, choose_all
from fotmem_clusters.compiled.merging import merge_all
from fotmem_clusters.compiled.reading import Pairs, Sums, read_clusters
from fotmem_clusters.compiled.rows import rows_of
from fotmem_clusters.compiled.shown import Array, shown
from fotmem_clusters.view import Viewer

WORKSPACE = 2**20
"""Entries that all queries of a part look at, about."""
LEAST = 2**16
"""As many entries are worth a thread."""


def attend_to_clusters(
    viewer: Viewer,
    queries: Tensor,
    *,
    limits: Limits,
    scale: float,
    bias: Bias | None = None,
    errors: bool = False,
) -> Attended:
    """Attend as `fotmem_clusters.attending.attend_to_clusters` does."""
    heads, asking, dim = queries.shape
    flat, owners = (queries * scale).view(-1, dim).numpy(), np.arange(heads).repeat(asking)
    entries = len(flat) * viewer.most
    few = min(torch.get_num_threads(), entries // LEAST)
    parts = min(len(flat), max(1, few, entries // WORKSPACE))
    bounds = np.linspace(0, len(flat), parts + 1).astype(int)

    def attend(part: int) -> tuple[Array, ...]:
        some = slice(bounds[part], bounds[part + 1])
        return _attend(viewer, flat[some], owners[some], limits, bias, scale)

    found = zip(*over_heads(attend, parts), strict=True)
    out, lse, error, read = (
        torch.from_numpy(np.concatenate(each)).view(heads, asking, *each[0].shape[1:])
        for each in found
    )
    return Attended(out, lse, error if errors else None, read if errors else None)


def _attend(
    viewer: Viewer, queries: Array, heads: Array, limits: Limits, bias: Bias | None, scale: float
) -> tuple[Array, ...]:
    """Attend with queries ``[n, D]``, scaled, of heads ``[n]``.

    Returns the output ``[n, D]``, and the log-sum-exp, the relative error and the number of keys
    read, ``[n]`` each.
    """
    seen = shown(viewer)
    looked, pairs = choose_all(queries, heads, seen, float(limits.error), limits.clusters)
    looked, pairs = Looked(*looked), Pairs(*pairs)
    sums = Sums.of(*queries.shape)
    origins = (queries * seen.origin[heads]).sum(1)
    for rows in rows_of(viewer.tree, pairs.nodes, bias, scale):
        read_clusters(queries, origins, looked.known, pairs, rows, sums)
    outs, (lses, errors) = np.empty_like(queries), np.empty((2, len(queries)), np.float32)
    merge_all(queries, heads, origins, seen, looked, sums, outs, lses, errors)
    return outs, lses, errors, sums.counts
