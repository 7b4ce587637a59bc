"""Reads chosen clusters, each once for all queries that read it."""

from typing import NamedTuple

import numpy as np

from fotmem_clusters.compiled.products import add_rows, inner_products
from fotmem_clusters.compiled.scalars import compiled, exp, inner, prefetch
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


@compiled
def no_sums(count: int, dim: int) -> Sums:
    """Return those of queries that have read nothing."""
    return Sums(
        np.zeros((count, dim), np.float32),
        np.zeros(count, np.float32),
        np.full(count, np.float32(-np.inf)),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
    )


@inner
def pairs_of(owners, places, nodes, room):
    """Bring together the pairs ``[p]`` of each node, of `room` nodes."""
    ends = np.zeros(room, np.int32)
    for node in nodes:
        ends[node] += 1
    visited = np.empty(min(room, len(nodes)), np.int32)
    starts, count, begin = np.empty(len(visited) + 1, np.int32), 0, 0
    for node in range(room):
        if ends[node] > 0:
            visited[count], starts[count] = node, begin
            begin, ends[node] = begin + ends[node], begin
            count += 1
    starts[count] = begin
    sorted_owners, sorted_places = np.empty_like(owners), np.empty_like(places)
    for pair in range(len(nodes)):
        end = ends[nodes[pair]]
        sorted_owners[end], sorted_places[end] = owners[pair], places[pair]
        ends[nodes[pair]] += 1
    return Pairs(sorted_owners, sorted_places, visited[:count], starts[: count + 1])


@compiled
def origins_of(queries, heads, shown):
    """Return the scores ``[n]`` of the origins of mean keys."""
    found = np.zeros(len(queries), np.float32)
    for owner in range(len(queries)):
        for column in range(queries.shape[1]):
            found[owner] += queries[owner, column] * shown.origin[heads[owner], column]
    return found


@compiled
def read_clusters(queries, origins, looked, pairs, rows, sums):
    """Attend with queries ``[n, D]`` to the rows of some clusters.

    Adds to `sums`. What was read has a score of -inf in `looked` then.
    """
    scores = np.empty(rows.members.shape[1], np.float32)
    for cluster in range(len(rows.sizes)):
        if cluster + 1 < len(rows.sizes):
            _fetch(rows, cluster + 1)
        visit = rows.first + cluster
        for pair in range(pairs.starts[visit], pairs.starts[visit + 1]):
            owner, place = pairs.owners[pair], pairs.places[pair]
            score = looked.scores[owner, place]
            lse = _read(queries[owner], rows, cluster, scores, owner, sums)
            if lse > -np.inf and score > -np.inf:
                sums.gained[owner] += lse - score - origins[owner]
                sums.predicted[owner] += looked.gains[owner, place]
            sums.counts[owner] += rows.sizes[cluster]
            looked.scores[owner, place] = -np.inf


@compiled
def read_waiting(queries, heads, rows, sums):
    """Attend with queries ``[n, D]`` to the rows of their heads ``[n]``, all of which they read."""
    scores = np.empty(rows.members.shape[1], np.float32)
    for owner in range(len(queries)):
        _read(queries[owner], rows, heads[owner], scores, owner, sums)


@inner
def _fetch(rows, cluster):
    """Ask the memory for a cluster that is read soon."""
    for place in range(rows.sizes[cluster]):
        member = rows.members[cluster, place]
        prefetch(rows.keys, member + rows.key_bases[cluster])
        prefetch(rows.values, member + rows.value_bases[cluster])
        if len(rows.biases) > 0:
            prefetch(rows.biases.reshape(-1, 1), member + rows.bias_base)


@inner
def _read(query, rows, cluster, scores, owner, sums):
    """Attend with a query to a cluster, and add that; return its log-sum-exp."""
    count, top = rows.sizes[cluster], np.float32(-np.inf)
    members, out = rows.members[cluster, :count], sums.outs[owner]
    inner_products(query, rows.keys, members, rows.key_bases[cluster], scores)
    for place in range(count):
        if len(rows.biases) > 0:
            scores[place] += rows.biases[members[place] + rows.bias_base]
        top = max(top, scores[place])
    if top == -np.inf:
        return top
    total = np.float32(0)
    for place in range(count):
        scores[place] = exp(scores[place] - top)
        total += scores[place]
    if top > sums.tops[owner]:
        before = exp(sums.tops[owner] - top)
        for column in range(len(out)):
            out[column] *= before
        sums.totals[owner] *= before
        sums.tops[owner] = top
    weight = exp(top - sums.tops[owner])
    for place in range(count):
        scores[place] *= weight
    add_rows(rows.values, members, rows.value_bases[cluster], scores, out)
    sums.totals[owner] += total * weight
    return top + np.log(total)
