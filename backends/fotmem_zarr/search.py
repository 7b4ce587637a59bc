"""Searches the rows of a store as one snapshot shows them."""

import torch
from torch import Tensor

from fotmem.stores import Bias, Hits, best_hits, exact_search
from fotmem_zarr.contents import LayerContents
from fotmem_zarr.index.cluster_search import ClusterSearch
from fotmem_zarr.index.hub_keys import HubRows
from fotmem_zarr.index.scan import scan_blocks
from fotmem_zarr.snapshot import Snapshot

RECENT = 4096
"""Newest rows that are all scored when there is a bias."""


def scan_all(contents: LayerContents, now: Snapshot, queries: Tensor, top_k: int) -> Hits:
    """Find the best rows for queries ``[H, Q, D]``, float32, by scoring all keys."""
    limit, first = contents.budget.workspace, contents.forgotten
    return _joined(scan_blocks(queries, contents.keys(now), top_k, first=first, limit=limit), top_k)


def search_clusters(
    contents: LayerContents,
    hubs: HubRows,
    queries: Tensor,
    top_k: int,
    *,
    nprobe: int,
) -> Hits:
    """Find the best rows among clusters, recent rows and hub keys; queries as for `scan_all`."""
    budget, first, now = contents.budget, contents.forgotten, contents.now
    found = scan_blocks(queries, now.recent.keys(), top_k, first=first, limit=budget.workspace)
    if now.segments:
        clusters = ClusterSearch(
            now.segments,
            contents.cache,
            nprobe=nprobe,
            first=first,
            workspace=budget.workspace,
            candidates=budget.candidates,
        )
        found.append(clusters.search(queries, top_k))
        found = hubs.joined(found, queries, top_k, first=first)
    return _joined(found, top_k)


def scan_biased(
    contents: LayerContents,
    now: Snapshot,
    queries: Tensor,
    top_k: int,
    bias: Bias,
    near: Hits | None,
) -> Hits:
    """Score keys together with their bias; queries as for `scan_all`.

    Parameters
    ----------
    near : Hits or None
        What clusters found. Only the newest rows are scored then, because a decay favours them and
        clusters do not know it. None: all keys are scored.
    """
    start, parts = 0, []
    if near is not None:
        start = max(contents.forgotten, now.end - RECENT)
        parts = [Hits(near.ids, near.scores.masked_fill(near.ids >= start, -torch.inf))]
    for first, keys in contents.keys(now, start):
        skip = max(0, start - first, contents.forgotten - first)
        if skip < keys.shape[1]:
            here = keys[:, skip:]
            found = exact_search(queries, here, top_k, first_id=first + skip, bias=bias)
            parts = [best_hits([*parts, found], top_k)]
    return parts[0]


def _joined(found: list[Hits], top_k: int) -> Hits:
    best = best_hits(found, top_k)
    return Hits(best.ids.where(best.scores > -torch.inf, -1), best.scores)
