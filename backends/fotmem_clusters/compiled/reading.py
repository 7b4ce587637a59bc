"""Reads chosen clusters, each once for all queries that read it."""

from typing import NamedTuple

import numpy as np

from fotmem_clusters.compiled.products import add_rows, inner_products
from fotmem_clusters.compiled.scalars import compiled, exp, prefetch
from fotmem_clusters.compiled.shown import Array


class Pairs(NamedTuple):
    """Pairs of a query and a cluster that it reads, those of a cluster side by side."""

    owners: Array
    """Shape ``[p]``, int32: queries."""
    places: Array
    """Shape ``[p]``, int32: places among what a query looks at."""
    nodes: Array
    """Shape ``[c]``, int32: the clusters, numbered across heads."""
    starts: Array
    """Shape ``[c + 1]``, int32: the first pair of each, and the end."""


class Sums(NamedTuple):
    """Attention to what was read so far."""

    outs: Array
    """Shape ``[n, D]``, float32: weighted values, in units of the exp of `tops`."""
    totals: Array
    """Shape ``[n]``, float32: the sum of weights, in the same units."""
    tops: Array
    """Shape ``[n]``, float32."""
    counts: Array
    """Shape ``[n]``, float32: keys."""
    gained: Array
    """Shape ``[n]``, float32: what the keys of clusters gained over scores, summed."""
    predicted: Array
    """Shape ``[n]``, float32: what they were expected to."""

    @classmethod
    def of(cls, count: int, dim: int) -> "Sums":
        """Return those of queries that have read nothing."""
        zeros, tops = np.zeros((4, count), np.float32), np.full(count, -np.inf, np.float32)
        return cls(np.zeros((count, dim), np.float32), zeros[0], tops, *zeros[1:])


@compiled
def pairs_of(owners, places, nodes, room):
    """Bring together the pairs ``[p]`` of each node, of `room` nodes; return parts of `Pairs`."""
    ends = np.zeros(room, np.int32)
    for node in nodes:
        ends[node] += 1
    visited = np.flatnonzero(ends).astype(np.int32)
    starts, begin = np.empty(len(visited) + 1, np.int32), 0
    for visit in range(len(visited)):
        starts[visit], count = begin, ends[visited[visit]]
        ends[visited[visit]] = begin
        begin += count
    starts[-1] = begin
    order = np.empty(len(nodes), np.int32)
    for pair in range(len(nodes)):
        order[ends[nodes[pair]]] = pair
        ends[nodes[pair]] += 1
    return owners[order], places[order], visited, starts


@compiled
def read_clusters(queries, origins, known, pairs, rows, sums):
    """Attend with queries ``[n, D]`` to the rows of some clusters.

    Adds to `sums`. What was read has a score of -inf in `known` ``[n, 3, E]`` then. `origins`
    ``[n]`` are the scores of the origin of mean keys.
    """
    scores = np.empty(rows.members.shape[1], np.float32)
    for cluster in range(len(rows.sizes)):
        if cluster + 1 < len(rows.sizes):
            _fetch(rows, cluster + 1)
        visit = rows.first + cluster
        for pair in range(pairs.starts[visit], pairs.starts[visit + 1]):
            owner = pairs.owners[pair]
            estimate = known[owner, :, pairs.places[pair]]
            lse = _read(queries[owner], rows, cluster, scores, owner, sums)
            if lse > -np.inf and estimate[0] > -np.inf:
                sums.gained[owner] += lse - estimate[0] - origins[owner]
                sums.predicted[owner] += estimate[2]
            sums.counts[owner] += rows.sizes[cluster]
            estimate[0] = -np.inf


@compiled
def _fetch(rows, cluster):
    """Ask the memory for a cluster that is read soon."""
    for place in range(rows.sizes[cluster]):
        member = rows.members[cluster, place]
        prefetch(rows.keys, member + rows.key_bases[cluster])
        prefetch(rows.values, member + rows.value_bases[cluster])


@compiled
def _read(query, rows, cluster, scores, owner, sums):
    """Attend with a query to a cluster, and add that; return its log-sum-exp."""
    count, top = rows.sizes[cluster], np.float32(-np.inf)
    members, scores = rows.members[cluster, :count], scores[:count]
    inner_products(query, rows.keys, members, rows.key_bases[cluster], scores)
    if len(rows.biases) > 0:
        scores += rows.biases[cluster, :count]
    for score in scores:
        top = max(top, score)
    if top == -np.inf:
        return top
    if top > sums.tops[owner]:
        before = exp(sums.tops[owner] - top)
        sums.outs[owner] *= before
        sums.totals[owner] *= before
        sums.tops[owner] = top
    total = np.float32(0)
    for place in range(count):
        scores[place] = exp(scores[place] - sums.tops[owner])
        total += scores[place]
    add_rows(rows.values, members, rows.value_bases[cluster], scores, sums.outs[owner])
    sums.totals[owner] += total
    return sums.tops[owner] + np.log(total)
