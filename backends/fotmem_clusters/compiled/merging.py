"""Merges attention to what was read with an estimate of the rest."""

import numpy as np

from fotmem_clusters.attending import LEAST
from fotmem_clusters.compiled.choosing import gain, risk
from fotmem_clusters.compiled.products import add_rows
from fotmem_clusters.compiled.scalars import compiled, exp


@compiled
def merge_all(queries, heads, origins, shown, looked, sums, outs, lses, errors):
    """Merge the sums of what queries ``[n, D]`` read with an estimate of the rest.

    Writes outputs ``[n, D]``, and log-sum-exp and relative errors ``[n]``.
    """
    for owner in range(len(queries)):
        share = sums.gained[owner] / max(sums.predicted[owner], np.float32(LEAST))
        right = np.sqrt(min(max(share, np.float32(0)), np.float32(1)))
        clusters, groups = looked.counts[owner]
        both = clusters + groups
        entries, known = looked.entries[owner, :both], looked.known[owner, :, :both]
        head, read, out = heads[owner], sums.tops[owner] - origins[owner], outs[owner]
        _correct(shown.clusters, head, entries[:clusters], known[:, :clusters], right)
        _correct(shown.groups, head, entries[clusters:], known[:, clusters:], right)
        scores, deviations = known[0], known[1]
        top = read
        for score in scores:
            top = max(top, score)
        if top == -np.inf:
            out[:], lses[owner], errors[owner] = 0, top, 0
            continue
        read = exp(read - top)
        total, error = sums.totals[owner] * read, np.float32(0)
        for place in range(both):
            scores[place] = exp(scores[place] - top)
            total += scores[place]
            one = scores[place] * risk(deviations[place])
            error += one * one
        out[:] = sums.outs[owner] * read
        by_kind = np.zeros(shown.variances.shape[1], np.float32)
        _add_means(shown.clusters, head, entries[:clusters], scores[:clusters], by_kind, out)
        _add_means(shown.groups, head, entries[clusters:], scores[clusters:], by_kind, out)
        _add_shifts(queries[owner] * right, shown.slopes[head], by_kind, out)
        out /= total
        lses[owner] = top + np.log(total) + origins[owner]
        errors[owner] = looked.units[owner] * np.sqrt(error) / total


@compiled
def _correct(nodes, head, numbers, known, right):
    """Multiply deviations by a factor, and add gains to scores."""
    scores, deviations, _ = known
    bounds = nodes.bounds[head]
    for place in range(len(numbers)):
        deviations[place] *= right
        scores[place] += gain(deviations[place], bounds[numbers[place]])


@compiled
def _add_means(nodes, head, numbers, weights, by_kind, out):
    """Add mean values, and spreads by kind, times weights."""
    add_rows(nodes.values[head], numbers, 0, weights, out)
    kinds, spreads = nodes.kinds[head], nodes.spreads[head]
    for place in range(len(numbers)):
        node = numbers[place]
        by_kind[nodes.first_kind + kinds[node]] += weights[place] * spreads[node]


@compiled
def _add_shifts(query, slopes, by_kind, out):
    """Add by how much values shift towards what a query prefers."""
    dim, some = len(query), np.flatnonzero(by_kind)  # where no group counts, half of all
    factors, numbers = np.empty((len(some), dim), np.float32), np.empty((len(some), dim), np.int64)
    for place in range(len(some)):
        factors[place] = by_kind[some[place]] * query
        numbers[place] = np.arange(dim) + some[place] * dim
    add_rows(slopes, numbers.reshape(-1), 0, factors.reshape(-1), out)
