"""What queries expect of clusters and groups, and which clusters each reads."""

from typing import NamedTuple

import numpy as np

from fotmem_clusters.choosing import LEAST
from fotmem_clusters.compiled.largest import blocks_of, take_largest
from fotmem_clusters.compiled.products import add_rows, inner_products, numbers_to
from fotmem_clusters.compiled.reading import pairs_of
from fotmem_clusters.compiled.scalars import compiled, exp, inner, prefetch
from fotmem_clusters.compiled.shown import BOUND, KIND, LOG_SIZE, SPREAD, Array
from fotmem_clusters.entries import NEEDLE, RISK, STEEPEST
from fotmem_clusters.view import ALL, LEAST_ERROR, MANY, OPEN, PER_QUERY

SMALL = np.float32(0.25)
"""Deviations up to which a risk is computed by its series."""
HUGE = np.float32(1e30)
TINY = np.float32(1e-30)


class Looked(NamedTuple):
    """What queries look at, and expect of it."""

    counts: Array
    """Shape ``[n, 2]``, int32: clusters, and groups."""
    entries: Array
    """Shape ``[n, E]``, int32: those, clusters first."""
    scores: Array
    """Shape ``[n, E]``, float32: log of the weights of these if all keys were as their mean."""
    deviations: Array
    """Shape ``[n, E]``, float32: of the scores of their keys."""
    gains: Array
    """Shape ``[n, E]``, float32: what is to be added to scores."""
    units: Array
    """Shape ``[n]``, float32: the relative error of the output at a risk of 1."""


@inner
def gain(deviation, bound):
    """As `fotmem_clusters.entries.gain`, of one entry."""
    steep = min(deviation, bound)
    return (deviation - np.float32(0.5) * steep) * steep


@inner
def risk(deviation):
    """As `fotmem_clusters.entries.risk`, of one entry."""
    few = min(deviation, np.float32(STEEPEST))
    series = few * few * (np.float32(1 / 2) + few * (np.float32(1 / 6) + few * np.float32(1 / 24)))
    whole = exp(few) - few - np.float32(1)
    return np.float32(RISK) * (series if few < SMALL else whole)


@inner
def spread_along(query, head, shown, along):
    """Compute the variance of inner products with a query, by kind."""
    turned = np.zeros_like(query)
    add_rows(shown.axes[head], numbers_to(len(query)), 0, query, turned)
    for place in range(len(query)):
        turned[place] *= turned[place]
    variances = shown.variances[head]
    inner_products(turned, variances, numbers_to(len(variances)), 0, along)


@inner
def expect(query, along, nodes, head, numbers, scores, deviations, gains):
    """Compute what a query expects of nodes of a head."""
    inner_products(query, nodes.keys[head], numbers, 0, scores)
    facts = nodes.facts[head]
    for place in range(len(numbers)):
        node = numbers[place]
        scores[place] += facts[node, LOG_SIZE]
        spread = along[int(facts[node, KIND])] * facts[node, SPREAD]
        deviations[place] = np.sqrt(spread)
        gains[place] = gain(deviations[place], facts[node, BOUND])


@inner
def shares_of(scores, gains, shares):
    """Compute the share of each entry in all weight; return the log of that."""
    top = np.float32(-np.inf)
    for place in range(len(scores)):
        top = max(top, scores[place] + gains[place])
    total = np.float32(0)
    for place in range(len(scores)):
        shares[place] = exp(scores[place] + gains[place] - top)
        total += shares[place]
    for place in range(len(scores)):
        shares[place] /= total
    return top + np.log(total)


@inner
def needles_of(scores, gains, deviations, lse, needles):
    """As `fotmem_clusters.entries.needle_risks`, squared."""
    top = np.float32(STEEPEST)
    for place in range(len(needles)):
        square = deviations[place] * deviations[place]
        exponent = scores[place] + gains[place] - lse + np.float32(NEEDLE) * square
        found = exp(min(exponent, top)) * min(square, top) * np.float32(RISK / 2)
        needles[place] = comparable(found * found)


@inner
def comparable(number):
    """Return a number that is not NaN: where scores overflow, a very large one."""
    return number if number < HUGE else HUGE


@inner
def norm(vector):
    """Return the Euclidean norm."""
    total = np.float32(0)
    for column in range(len(vector)):
        total += vector[column] * vector[column]
    return np.sqrt(total)


@inner
def open_groups(query, along, shown, head, error, entries, scores, deviations, gains):
    """Choose what a query looks at where a head has many groups.

    Writes clusters to `entries`, then groups whose clusters it does not look at; of these groups
    also scores, deviations and gains. Returns how many there are of each.
    """
    groups, clusters = shown.groups, shown.clusters.counts[head]
    count = groups.counts[head]
    numbers = numbers_to(count)
    log_weights = np.empty(count, np.float32)
    steep, more = np.empty_like(log_weights), np.empty_like(log_weights)
    expect(query, along, groups, head, numbers, log_weights, steep, more)
    shares, needles = np.empty_like(steep), np.empty_like(steep)
    rough = np.zeros(len(query), np.float32)
    lse = shares_of(log_weights, more, shares)
    add_rows(groups.values[head], numbers, 0, shares, rough)
    needles_of(log_weights, more, steep, lse, needles)
    limit = (max(error, LEAST_ERROR) / unit_of(shown, head, rough)) ** 2
    left = needles.astype(np.float64).sum()
    closed = needles.copy()
    largest, opened, looked = blocks_of(closed), 0, 0
    while opened < OPEN + PER_QUERY or left > limit:
        if opened == count or opened > MANY * count:
            for cluster in range(clusters):
                entries[cluster] = cluster
            return clusters, 0
        group = take_largest(closed, largest)
        left -= needles[group]
        opened += 1
        for column in range(shown.table.shape[2]):
            cluster = shown.table[head, group, column]
            if cluster < 0:
                break
            prefetch(shown.clusters.keys[head], cluster)
            prefetch(shown.clusters.values[head], cluster)
            prefetch(shown.clusters.facts[head], cluster)
            entries[looked] = cluster
            looked += 1
    place = looked
    for group in range(count):
        if closed[group] >= 0:
            entries[place], scores[place] = group, log_weights[group]
            deviations[place], gains[place] = steep[group], more[group]
            place += 1
    return looked, place - looked


@inner
def unit_of(shown, head, rough):
    """Return the relative error of an output about `rough` at a risk of 1."""
    return shown.value_norms[head] / max(norm(rough), TINY)


@inner
def choose(query, shown, head, error, most, entries, scores, deviations, gains, chosen):
    """Choose what a query ``[D]`` looks at, and which clusters of that it reads.

    Parameters
    ----------
    query : array
        Scaled.
    shown : Shown
    head : int
    error : float
        It reads until the estimated relative error of its output is this.
    most : int
        It reads no more clusters.
    entries : array
        Written, int32: clusters, then groups.
    scores, deviations, gains : array
        Written, float32: of these.
    chosen : array
        Written, int32: the places among entries of what it reads.

    Returns
    -------
    looked, rest, read : int
        How many clusters and groups it looks at, and clusters it reads.
    unit : float
        The relative error of the output at a risk of 1.
    """
    along = np.empty(shown.variances.shape[1], np.float32)
    spread_along(query, head, shown, along)
    clusters = shown.clusters.counts[head]
    looked, rest = clusters, 0
    if shown.groups.counts[head] > ALL and most < clusters:
        looked, rest = open_groups(
            query, along, shown, head, error, entries, scores, deviations, gains
        )
    else:
        for cluster in range(clusters):
            entries[cluster] = cluster
    some, both = entries[:looked], looked + rest
    expect(query, along, shown.clusters, head, some, scores, deviations, gains)
    shares, needles = np.empty(both, np.float32), np.empty(looked, np.float32)
    lse = shares_of(scores[:both], gains, shares)
    rough = np.zeros(len(query), np.float32)
    add_rows(shown.clusters.values[head], some, 0, shares[:looked], rough)
    add_rows(shown.groups.values[head], entries[looked:both], 0, shares[looked:], rough)
    unit = unit_of(shown, head, rough)
    needles_of(scores, gains, deviations, lse, needles)
    left = needles.astype(np.float64).sum()
    risks = shares[:looked]
    for place in range(looked):
        risks[place] = comparable(risks[place] * risk(deviations[place]))
    limit, most = (error / unit) ** 2, min(most, looked)
    largest, read = blocks_of(risks), 0
    while read < most and (read < LEAST or max(left, 0.0) >= limit):
        chosen[read] = take_largest(risks, largest)
        left -= needles[chosen[read]]
        read += 1
    return looked, rest, read, unit


@compiled
def choose_all(queries, heads, shown, error, most):
    """Choose what queries ``[n, D]`` of heads ``[n]`` look at, and which clusters they read."""
    count, room = len(queries), shown.members.shape[1]
    wide = shown.clusters.counts.max() + shown.groups.counts.max()
    counts, units = np.empty((count, 2), np.int32), np.empty(count, np.float32)
    entries, chosen = np.empty((count, wide), np.int32), np.empty((count, wide), np.int32)
    scores = np.empty((count, wide), np.float32)
    deviations, gains = np.empty_like(scores), np.empty_like(scores)
    reads = np.empty(count, np.int32)
    for owner in range(count):
        counts[owner, 0], counts[owner, 1], reads[owner], units[owner] = choose(
            queries[owner],
            shown,
            heads[owner],
            error,
            most,
            entries[owner],
            scores[owner],
            deviations[owner],
            gains[owner],
            chosen[owner],
        )
    owners = np.empty(reads.sum(), np.int32)
    places, nodes, pair = np.empty_like(owners), np.empty_like(owners), 0
    for owner in range(count):
        for place in chosen[owner, : reads[owner]]:
            owners[pair], places[pair] = owner, place
            nodes[pair] = heads[owner] * room + entries[owner, place]
            pair += 1
    looked = Looked(counts, entries, scores, deviations, gains, units)
    return looked, pairs_of(owners, places, nodes, len(shown.members) * room)
