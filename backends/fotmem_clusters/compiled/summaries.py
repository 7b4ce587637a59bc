"""Summarises the rows of clusters, where they lie."""

import numpy as np
import torch
from torch import Tensor

from fotmem_clusters.compiled.parts import in_parts
from fotmem_clusters.compiled.products import add_rows, numbers_to
from fotmem_clusters.compiled.rows import Column
from fotmem_clusters.compiled.scalars import compiled, float_of, inner, prefetch
from fotmem_clusters.compiled.shown import raw
from fotmem_clusters.summaries import Summary


def summary_of(
    columns: tuple[Column, Column], heads: Tensor, held: Tensor, origins: Tensor
) -> Summary:
    """Summarise sets of rows as `fotmem_clusters.summaries.summary` does.

    Parameters
    ----------
    columns : tuple of Column
        Keys and values.
    heads : Tensor
        Shape ``[c]``, int64.
    held : Tensor
        Shape ``[c, S]``, int64: rows of each set; -1 after the last.
    origins : Tensor
        Shape ``[H, D]``, float32: from where keys are counted.
    """
    count, dim = len(held), origins.shape[1]
    sizes = (dim, dim, 3)
    keys, values, numbers = (torch.zeros(count, size, dtype=torch.float32) for size in sizes)
    sets = [raw(each) for each in (heads, held, keys, values, numbers)]
    in_parts(lambda some: _summarise(*columns, raw(origins), *(s[some] for s in sets)), count)
    return Summary(keys, values, *numbers.T)


@compiled
def _summarise(key_rows, value_rows, origins, heads, held, keys, values, numbers):
    buffer = np.empty((held.shape[1], origins.shape[1]), np.float32)
    nowhere = np.zeros(origins.shape[1], np.float32)
    for node in range(len(held)):
        count, head = 0, heads[node]
        while count < held.shape[1] and held[node, count] >= 0:
            count += 1
        members = held[node, :count]
        origin = origins[head]
        numbers[node, 0] = _mean(key_rows, head, members, origin, buffer, keys[node])
        numbers[node, 1] = _mean(value_rows, head, members, nowhere, buffer, values[node])
        for column in range(len(nowhere)):
            numbers[node, 1] += values[node, column] * values[node, column]
        numbers[node, 2] = count


@inner
def _mean(source, head, members, origin, buffer, mean):
    """Compute the mean of some rows from an origin; return their mean squared distance from it."""
    count, base, total = len(members), head * source.room - source.first, np.float32(0)
    for place in range(count):
        prefetch(source.rows, base + members[place])
    for place in range(count):
        row, copy = source.rows[base + members[place]], buffer[place]
        for column in range(len(copy)):
            copy[column] = float_of(row[column]) - origin[column]
    share = np.float32(1 / max(count, 1))
    add_rows(buffer, numbers_to(count), 0, np.full(count, share), mean)
    for place in range(count):
        copy = buffer[place]
        for column in range(len(copy)):
            offset = copy[column] - mean[column]
            total += offset * offset
    return total * share
