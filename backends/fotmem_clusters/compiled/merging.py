"""Merges attention to what was read with an estimate of the rest."""

import numpy as np

from fotmem_clusters.attending import LEAST
from fotmem_clusters.compiled.choosing import gain, risk
from fotmem_clusters.compiled.products import add_rows
from fotmem_clusters.compiled.scalars import compiled, exp, inner
from fotmem_clusters.compiled.shown import BOUND, KIND, SPREAD


@compiled
def merge_all(queries, heads, shown, origins, looked, sums, errors):
    """Merge the sums of what queries ``[n, D]`` read with an estimate of the rest.

    Returns outputs ``[n, D]``, log-sum-exp and keys read, ``[n]``, and relative errors: ``[n]``, or
    ``[0]`` if `errors` is False.
    """
    outs, lses = np.empty_like(queries), np.empty_like(origins)
    expected = np.zeros(len(queries) if errors else 0, np.float32)
    for owner in range(len(queries)):
        share = sums.gained[owner] / max(sums.predicted[owner], np.float32(LEAST))
        right = np.sqrt(min(max(share, np.float32(0)), np.float32(1)))
        clusters, groups = looked.counts[owner]
        both = clusters + groups
        entries, scores = looked.entries[owner][:both], looked.scores[owner][:both]
        deviations = looked.deviations[owner][:both]
        head, read, out = heads[owner], sums.tops[owner] - origins[owner], outs[owner]
        deviations *= right
        _add_gains(shown.clusters, head, entries[:clusters], deviations, scores)
        _add_gains(shown.groups, head, entries[clusters:], deviations[clusters:], scores[clusters:])
        top = read
        for score in scores:
            top = max(top, score)
        if top == -np.inf:
            out[:], lses[owner] = 0, top
            continue
        read = exp(read - top)
        total = sums.totals[owner] * read
        for place in range(both):
            scores[place] = exp(scores[place] - top)
            total += scores[place]
        if errors:
            expected[owner] = looked.units[owner] * _error(scores, deviations) / total
        out[:] = sums.outs[owner] * read
        by_kind = np.zeros(shown.variances.shape[1], np.float32)
        _add_means(shown.clusters, head, entries[:clusters], scores[:clusters], by_kind, out)
        _add_means(shown.groups, head, entries[clusters:], scores[clusters:], by_kind, out)
        _add_shifts(queries[owner] * right, shown.slopes[head], by_kind, out)
        out /= total
        lses[owner] = top + np.log(total) + origins[owner]
    return outs, lses, sums.counts, expected


@inner
def _error(weights, deviations):
    """Return the error of estimates with these weights."""
    total = np.float32(0)
    for place in range(len(weights)):
        one = weights[place] * risk(deviations[place])
        total += one * one
    return np.sqrt(total)


@inner
def _add_gains(nodes, head, numbers, deviations, scores):
    """Add gains of nodes to their scores."""
    facts = nodes.facts[head]
    for place in range(len(numbers)):
        scores[place] += gain(deviations[place], facts[numbers[place], BOUND])


@inner
def _add_means(nodes, head, numbers, weights, by_kind, out):
    """Add mean values, and spreads by kind, times weights."""
    add_rows(nodes.values[head], numbers, 0, weights, out)
    facts = nodes.facts[head]
    for place in range(len(numbers)):
        node = numbers[place]
        by_kind[int(facts[node, KIND])] += weights[place] * facts[node, SPREAD]


@inner
def _add_shifts(query, slopes, by_kind, out):
    """Add by how much values shift towards what a query prefers."""
    dim, count = len(query), 0
    factors, numbers = np.empty(len(slopes), np.float32), np.empty(len(slopes), np.int32)
    for kind in range(len(by_kind)):
        if by_kind[kind] > 0:  # where no group counts, none of theirs
            for place in range(dim):
                factors[count], numbers[count] = by_kind[kind] * query[place], kind * dim + place
                count += 1
    add_rows(slopes, numbers[:count], 0, factors, out)
