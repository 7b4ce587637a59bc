"""Finds the nearest cluster of each vector among those of some groups."""

import numpy as np
import torch
from torch import Tensor

from fotmem.stores import over_heads
from fotmem_clusters.compiled.products import add_rows, numbers_to
from fotmem_clusters.compiled.scalars import compiled, float_of, inner
from fotmem_clusters.compiled.shown import raw


def nearest_in(vectors: Tensor, groups: Tensor, table: Tensor, means: Tensor) -> Tensor:
    """Return the nearest cluster ``[H, n]``, int64, of each vector.

    Parameters
    ----------
    vectors : Tensor
        Shape ``[H, n, D]``, float32.
    groups : Tensor
        Shape ``[H, n, P]``, int64: in whose clusters it is looked for.
    table : Tensor
        Shape ``[H, room, S]``, int32: the clusters of each group; -1 after the last.
    means : Tensor
        Shape ``[H, room, D]``: of clusters, as they are stored.
    """
    found = torch.zeros(vectors.shape[:2], dtype=torch.long)
    parts = [raw(each) for each in (vectors, groups, table, means, found)]
    over_heads(lambda head: _nearest_in(*(each[head] for each in parts)), len(vectors))
    return found


@compiled
def _nearest_in(vectors, groups, table, means, found):
    """Find the nearest clusters of one head; those of a group are read once."""
    count, wide = groups.shape
    starts, order = _by_group(groups.reshape(-1), len(table))
    best = np.full(count, np.float32(-np.inf))
    across = np.zeros((vectors.shape[1], table.shape[1]), np.float32)
    offsets, closeness = np.empty(table.shape[1], np.float32), np.empty(table.shape[1], np.float32)
    columns = numbers_to(len(across))
    for group in range(len(table)):
        if starts[group] == starts[group + 1]:
            continue
        clusters = table[group]
        turn(means, clusters, across, offsets)
        for place in range(starts[group], starts[group + 1]):
            vector = order[place] // wide
            for column in range(len(offsets)):
                closeness[column] = offsets[column]
            add_rows(across, columns, 0, vectors[vector], closeness)
            nearest = np.argmax(closeness)
            if closeness[nearest] > best[vector]:
                best[vector], found[vector] = closeness[nearest], clusters[nearest]


@inner
def _by_group(groups, room):
    """Return where the pairs of each group begin, and the pairs in this order."""
    starts, order = np.zeros(room + 1, np.int64), np.empty(len(groups), np.int64)
    for group in groups:
        starts[group + 1] += 1
    for group in range(room):
        starts[group + 1] += starts[group]
    places = starts.copy()
    for pair in range(len(groups)):
        order[places[groups[pair]]] = pair
        places[groups[pair]] += 1
    return starts, order


@inner
def turn(means, clusters, across, offsets):
    """Write the means of clusters as columns; and offsets, with which products compare."""
    for place in range(len(clusters)):
        if clusters[place] < 0:
            offsets[place:] = -np.inf
            break
        mean, total = means[clusters[place]], np.float32(0)
        for column in range(len(mean)):
            number = float_of(mean[column])
            across[column, place] = number
            total += number * number
        offsets[place] = total / np.float32(-2)
